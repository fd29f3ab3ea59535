// What a node program does with the shop, as a transcript: arguments PORT DATABASE LOGIN OPTIONS. Through Menshen it must print what it prints on a
// masked copy. Whatever a part throws is printed behind "!!", which no part may do on the copy.
'use strict'
const { Client, Pool, types } = require('pg')
const Cursor = require('pg-cursor')
const QueryStream = require('pg-query-stream')
const { to: copyTo, from: copyFrom } = require('pg-copy-streams')
const { pipeline } = require('node:stream/promises')
const { Readable, Writable } = require('node:stream')

const [port, database, login, options] = process.argv.slice(2)
const config = { host: '127.0.0.1', port: Number(port), database, user: login, password: [...login].reverse().join(''), options }
// As the server writes them.
for (const oid of [1082, 1114, 1184]) types.setTypeParser(oid, (v) => v)

const say = (...words) => console.log(JSON.stringify(words))
const fields = (r) => r.fields.map((f) => [f.name, f.tableID, f.columnID, f.dataTypeID, f.dataTypeSize, f.dataTypeModifier, f.format])
const QUERIES = [
  'SELECT * FROM crm.customers ORDER BY id LIMIT 40',
  "SELECT id, name, phone, email, address, id_card, birth, grade FROM crm.customers WHERE phone LIKE '1%' ORDER BY id",
  'SELECT c.name, o.item, o.total FROM crm.customers c JOIN crm.orders o ON o.customer_id = c.id ORDER BY o.id LIMIT 50',
  'SELECT grade, count(*), min(name), max(phone), array_agg(phone ORDER BY id) FROM crm.customers GROUP BY grade ORDER BY grade',
  'SELECT json_agg(c ORDER BY c.id) AS j FROM (SELECT id, name, phone FROM crm.customers WHERE id < 20) c',
  'SELECT customer_id, lat, lon FROM crm.customer_locations ORDER BY 1 LIMIT 20',
  'WITH few AS (SELECT id, phone FROM crm.customers WHERE id < 10) SELECT upper(phone), length(phone) FROM few ORDER BY id',
  'SELECT DISTINCT left(name, 1) AS n FROM crm.customers ORDER BY 1',
]

const parts = {
  'simple queries': async (c) => {
    for (const text of QUERIES) {
      const r = await c.query({ text, rowMode: 'array' })
      say(r.command, r.rowCount, fields(r), r.rows)
    }
  },
  'parameters and binary results': async (c) => {
    for (const text of QUERIES) {
      const r = await c.query({ text, values: [], rowMode: 'array', binary: !text.includes('birth') && !text.includes('*') })
      say(r.rowCount, fields(r), r.rows)
    }
    for (let id = 1; id < 12; id++) {
      const r = await c.query('SELECT id, name, phone FROM crm.customers WHERE id = $1 AND name <> $2', [id, 'nobody'])
      say(r.rows)
    }
  },
  'named statements': async (c) => {
    for (let round = 0; round < 3; round++) {
      for (const id of [1, 5, 9]) {
        say((await c.query({ name: 'one', text: 'SELECT * FROM crm.customers WHERE id = $1', values: [id] })).rows)
        say((await c.query({ name: 'many', text: 'SELECT id, phone FROM crm.customers WHERE id < $1 ORDER BY id', values: [id], rows: 3 })).rows)
      }
    }
  },
  'several statements in one string': async (c) => {
    const all = await c.query("SELECT count(*) FROM crm.products; SELECT phone FROM crm.customers ORDER BY id LIMIT 3; SET application_name = 'node'")
    for (const r of all) say(r.command, r.rows)
  },
  cursors: async (c) => {
    const cursor = c.query(new Cursor('SELECT id, name, phone FROM crm.customers ORDER BY id'))
    for (let rows; (rows = await cursor.read(17)).length; ) say(rows)
    await cursor.close()
    const stream = c.query(new QueryStream('SELECT id, email FROM crm.customers WHERE id < $1 ORDER BY id', [60], { batchSize: 7 }))
    for await (const row of stream) say(row)
    const left = c.query(new Cursor('SELECT id, phone FROM crm.customers ORDER BY id'))
    say(await left.read(2))
    await left.close()
  },
  copy: async (c) => {
    for (const form of ['', ' (FORMAT csv, HEADER)', ' (FORMAT binary)']) {
      for (const what of ['crm.customers', '(SELECT id, phone, birth FROM crm.customers WHERE id < 30 ORDER BY id)']) {
        // A whole table comes in whatever order its rows lie in.
        if (form.includes('binary') && !what.startsWith('(')) continue
        const blocks = []
        await pipeline(c.query(copyTo(`COPY ${what} TO STDOUT${form}`)), new Writable({ write: (b, _, done) => (blocks.push(b), done()) }))
        const data = Buffer.concat(blocks)
        say(form, what, form.includes('binary') ? data.toString('hex') : data.toString().split('\n').sort())
      }
    }
    await c.query('BEGIN')
    const rows = Array.from({ length: 500 }, (_, n) => `${80000 + n}\t${1 + (n % 40)}\tcopied ${n}\n`)
    await pipeline(Readable.from(rows), c.query(copyFrom('COPY crm.orders (id, customer_id, item) FROM STDIN')))
    say((await c.query('SELECT count(*), min(item), max(item) FROM crm.orders WHERE id >= 80000')).rows)
    await c.query('ROLLBACK')
  },
  'transactions and errors': async (c) => {
    const fails = (text, values) => c.query(text, values).then(() => say('no error'), (e) => say('error', e.code, e.severity))
    await c.query('BEGIN')
    await c.query('SAVEPOINT s')
    await fails('SELECT phone / 2 FROM crm.customers')
    await fails('SELECT 1')
    await c.query('ROLLBACK TO s')
    await fails('SELECT 1 / $1::int', [0])
    await c.query('ROLLBACK')
    await fails('SELECT nothing FROM crm.products')
    await fails('SELECT id FROM crm.nothing')
    await fails('SELEC 1')
    say((await c.query('SELECT count(*) FROM crm.customers')).rows)
  },
  'queries that wait for each other': async (c) => {
    const all = await Promise.all(Array.from({ length: 40 }, (_, n) => c.query('SELECT id, phone FROM crm.customers WHERE id = $1', [n])))
    say(all.map((r) => r.rows))
  },
  notifications: async (c) => {
    // They come while the client is idle.
    await c.query('LISTEN shop')
    const other = new Client(config)
    await other.connect()
    for (let n = 0; n < 3; n++) {
      const heard = new Promise((done) => c.once('notification', done))
      await other.query(`NOTIFY shop, 'number ${n}'`)
      const { channel, payload } = await heard
      say(channel, payload)
    }
    await other.end()
  },
  cancel: async (c) => {
    const other = new Client(config)
    await other.connect()
    const sleeping = c.query('SELECT pg_sleep(30)').then(() => say('slept'), (e) => say('error', e.code))
    const packet = Buffer.alloc(16)
    ;[16, 80877102, c.processID, c.secretKey].forEach((n, at) => packet.writeInt32BE(n, at * 4))
    let over = false
    sleeping.then(() => (over = true))
    while (!over) {
      await new Promise((done) => setTimeout(done, 200))
      await new Promise((done) => require('node:net').connect(Number(port), '127.0.0.1').on('close', done).on('error', done).end(packet))
    }
    say((await c.query('SELECT 1 AS one')).rows)
    await other.end()
  },
  pool: async () => {
    const pool = new Pool({ ...config, max: 5 })
    const all = await Promise.all(Array.from({ length: 60 }, (_, n) => pool.query('SELECT id, name, phone FROM crm.customers WHERE id = $1', [n])))
    say(all.map((r) => r.rows))
    await pool.end()
  },
}

const run = async () => {
  for (const [name, part] of Object.entries(parts)) {
    console.log('== ' + name)
    const client = new Client(config)
    try {
      await client.connect()
      await part(client)
    } catch (e) {
      console.log(`!! ${name}: ${e.code} ${e.message}`)
    }
    await client.end().catch((e) => console.log(`!! ${name}: ${e.message}`))
  }
}
run()
