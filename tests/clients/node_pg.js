// node-postgres (pg) feature by feature: an equivalent of its own tests, which its package does not carry. Runs by `node --test` against whatever
// PGHOST, PGPORT, PGUSER and PGDATABASE name (tools/suites node).
'use strict'
const test = require('node:test')
const assert = require('node:assert')
const { Client, Pool, Query } = require('pg')
const Cursor = require('pg-cursor')

const with_client = (title, work, config) =>
  test(title, { timeout: 60000 }, async () => {
    const client = new Client(config)
    await client.connect()
    try {
      await work(client)
    } finally {
      await client.end()
    }
  })
const code = (wanted) => (error) => {
  assert.strictEqual(error.code, wanted, error.message)
  return true
}

with_client('simple query', async (c) => {
  const { rows, rowCount, command, fields } = await c.query("SELECT 1 AS a, 'x'::text AS b")
  assert.deepStrictEqual([rows, rowCount, command], [[{ a: 1, b: 'x' }], 1, 'SELECT'])
  assert.deepStrictEqual(fields.map((f) => [f.name, f.dataTypeID, f.format]), [['a', 23, 'text'], ['b', 25, 'text']])
})
with_client('parameters of every type', async (c) => {
  const values = [1, '2', 2.5, true, null, new Date(0), Buffer.from([0, 255]), ['a', null, 'b"'], { j: [1] }]
  const casts = ['int', 'int8', 'float8', 'bool', 'text', 'timestamptz', 'bytea', 'text[]', 'jsonb']
  const { rows } = await c.query({ text: 'SELECT ' + casts.map((t, n) => `$${n + 1}::${t}`).join(', '), values, rowMode: 'array' })
  assert.deepStrictEqual(rows[0], [1, '2', 2.5, true, null, new Date(0), Buffer.from([0, 255]), ['a', null, 'b"'], { j: [1] }])
})
with_client('binary results', async (c) => {
  const { rows } = await c.query({ text: "SELECT 7::int4 AS a, 'x'::text AS b, true AS c", binary: true })
  assert.deepStrictEqual(rows, [{ a: 7, b: 'x', c: true }])
})
with_client('several statements in one string', async (c) => {
  const results = await c.query('CREATE TEMP TABLE t (a int); INSERT INTO t VALUES (1), (2); SELECT a FROM t ORDER BY a; SELECT 5 AS b')
  assert.deepStrictEqual(results.map((r) => [r.command, r.rowCount]), [['CREATE', null], ['INSERT', 2], ['SELECT', 2], ['SELECT', 1]])
})
with_client('an error in a string undoes it', async (c) => {
  await assert.rejects(c.query('CREATE TABLE undone (a int); INSERT INTO undone VALUES (1); SELECT 1/0'), code('22012'))
  assert.deepStrictEqual((await c.query("SELECT to_regclass('undone') AS t")).rows, [{ t: null }])
})
with_client('empty queries', async (c) => {
  for (const text of ['', ';', '-- nothing', '/* nothing */']) assert.strictEqual((await c.query(text)).rows.length, 0)
  assert.strictEqual((await c.query({ text: '', values: [] })).rows.length, 0)
})
with_client('named statements', async (c) => {
  for (let n = 0; n < 5; n++) assert.strictEqual((await c.query({ name: 'n', text: 'SELECT $1::int + 1 AS x', values: [n] })).rows[0].x, n + 1)
  assert.strictEqual((await c.query('SELECT count(*)::int AS n FROM pg_prepared_statements')).rows[0].n, 1)
  await assert.rejects(c.query({ name: 'n', text: 'SELECT 2', values: [] }), /must be unique/)
  await assert.rejects(c.query({ name: 'bad', text: 'SELECT $1::int', values: ['x'] }), code('22P02'))
  assert.strictEqual((await c.query({ name: 'bad', text: 'SELECT $1::int', values: [3] })).rows[0].int4, 3)
})
with_client('a named statement after DDL', async (c) => {
  await c.query('CREATE TEMP TABLE d (a int)')
  const ask = () => c.query({ name: 'd', text: 'SELECT * FROM d' })
  await ask()
  await c.query('ALTER TABLE d ADD b int')
  await assert.rejects(ask(), code('0A000'))
  await c.query('DEALLOCATE ALL')
  await assert.rejects(ask(), code('26000'))
})
with_client('rows in portions', async (c) => {
  const query = new Query({ text: 'SELECT n FROM generate_series(1, 100) n', values: [], rows: 7 })
  let count = 0
  query.on('row', () => count++)
  await new Promise((done, failed) => { query.on('end', done); query.on('error', failed); c.query(query) })
  assert.strictEqual(count, 100)
})
with_client('a cursor read, left and closed', async (c) => {
  const cursor = c.query(new Cursor('SELECT n FROM generate_series(1, 1000) n WHERE n > $1', [10]))
  assert.strictEqual((await cursor.read(100)).length, 100)
  assert.strictEqual((await cursor.read(1))[0].n, 111)
  await cursor.close()
  assert.strictEqual((await c.query('SELECT 1 AS a')).rows[0].a, 1)
})
with_client('a cursor that fails half-way', async (c) => {
  const cursor = c.query(new Cursor('SELECT 10 / (50 - n) FROM generate_series(1, 100) n'))
  await cursor.read(10)
  await assert.rejects(cursor.read(100), code('22012'))
  assert.strictEqual((await c.query('SELECT 1 AS a')).rows[0].a, 1)
})
with_client('queries queue up', async (c) => {
  const results = await Promise.all(Array.from({ length: 100 }, (_, n) => c.query(n % 2 ? `SELECT ${n} AS n` : { text: 'SELECT $1::int AS n', values: [n] })))
  assert.deepStrictEqual(results.map((r) => r.rows[0].n), Array.from({ length: 100 }, (_, n) => n))
})
with_client('errors between queries that queue up', async (c) => {
  const results = await Promise.allSettled(Array.from({ length: 30 }, (_, n) => c.query(n % 3 ? `SELECT ${n} AS n` : 'SELECT nosuch')))
  assert.deepStrictEqual(results.map((r) => r.status), Array.from({ length: 30 }, (_, n) => (n % 3 ? 'fulfilled' : 'rejected')))
})
with_client('fields of errors', async (c) => {
  await c.query('CREATE TEMP TABLE u (a int CONSTRAINT positive CHECK (a > 0))')
  await assert.rejects(c.query('INSERT INTO u VALUES ($1)', [-1]), (e) => {
    assert.deepStrictEqual([e.code, e.table, e.constraint, e.severity, typeof e.detail], ['23514', 'u', 'positive', 'ERROR', 'string'])
    return true
  })
  await assert.rejects(c.query('SELECT 1,\n nosuch'), (e) => e.position === '12' && code('42703')(e))
})
with_client('transactions', async (c) => {
  await c.query('CREATE TEMP TABLE x (a int)')
  await c.query('BEGIN')
  await c.query('INSERT INTO x VALUES (1)')
  await c.query('SAVEPOINT s')
  await assert.rejects(c.query('INSERT INTO x VALUES ($1::int)', ['no']), code('22P02'))
  await assert.rejects(c.query('SELECT 1'), code('25P02'))
  await c.query('ROLLBACK TO s')
  await c.query('COMMIT')
  assert.strictEqual((await c.query('SELECT a FROM x')).rowCount, 1)
})
with_client('notifications while idle', async (c) => {
  await c.query('LISTEN "Chan"')
  const other = new Client()
  await other.connect()
  const heard = new Promise((done) => c.once('notification', done))
  await other.query('SELECT pg_notify($1, $2)', ['Chan', 'payload 木'])
  const { channel, payload, processId } = await heard
  assert.deepStrictEqual([channel, payload, processId], ['Chan', 'payload 木', other.processID])
  await other.end()
})
with_client('notices', async (c) => {
  const notices = []
  c.on('notice', (n) => notices.push([n.severity, n.message, n.code]))
  await c.query("DO $$ BEGIN RAISE NOTICE 'seen' USING ERRCODE = '01234'; END $$")
  assert.deepStrictEqual(notices, [['NOTICE', 'seen', '01234']])
})
with_client('time-outs of the server', async (c) => {
  await assert.rejects(c.query('SELECT pg_sleep(20)'), code('57014'))
}, { statement_timeout: 200 })
test('idle in transaction', { timeout: 60000 }, async () => {
  const client = new Client({ idle_in_transaction_session_timeout: 200 })
  await client.connect()
  const lost = new Promise((done) => client.on('error', done))
  await client.query('BEGIN')
  assert.strictEqual((await lost).code, '25P03')
})
with_client('start-up options', async (c) => {
  const { rows } = await c.query("SELECT current_setting('application_name') AS a, current_setting('search_path') AS s")
  assert.deepStrictEqual(rows, [{ a: 'an app', s: 'pg_catalog' }])
}, { application_name: 'an app', options: '-c search_path=pg_catalog' })
test('no such database', async () => {
  await assert.rejects(new Client({ database: 'nosuch' }).connect(), code('3D000'))
})
test('a session that is terminated', { timeout: 60000 }, async () => {
  const client = new Client()
  await client.connect()
  const lost = new Promise((done) => client.on('error', done))
  const other = new Client()
  await other.connect()
  await other.query('SELECT pg_terminate_backend($1)', [client.processID])
  assert.strictEqual((await lost).code, '57P01')
  await other.end()
})
with_client('big values and many rows', async (c) => {
  const text = 'x'.repeat(3e6)
  assert.strictEqual((await c.query('SELECT $1::text AS t', [text])).rows[0].t, text)
  assert.strictEqual((await c.query('SELECT n, md5(n::text) FROM generate_series(1, 50000) n')).rowCount, 50000)
})
with_client('arrays of rows, doubled names', async (c) => {
  const { rows, fields } = await c.query({ text: 'SELECT 1 AS a, 2 AS a, ARRAY[[1,2],[3,4]] AS m', rowMode: 'array' })
  assert.deepStrictEqual([rows, fields.length], [[[1, 2, [[1, 2], [3, 4]]]], 3])
})
test('ends and disconnects at odd moments', { timeout: 60000 }, async () => {
  for (let n = 0; n < 20; n++) {
    const client = new Client()
    client.on('error', () => {})
    await client.connect()
    if (n % 2) client.query('SELECT pg_sleep(5)').catch(() => {})
    if (n % 3) client.connection.stream.destroy()
    else if (n % 2 === 0) await client.end()
    else client.connection.stream.destroy()
  }
})
test('a pool', { timeout: 60000 }, async () => {
  const pool = new Pool({ max: 5 })
  const rows = await Promise.all(Array.from({ length: 60 }, (_, n) => pool.query('SELECT $1::int AS n', [n])))
  assert.deepStrictEqual(rows.map((r) => r.rows[0].n), Array.from({ length: 60 }, (_, n) => n))
  const client = await pool.connect()
  await client.query('BEGIN')
  client.release(true)
  assert.strictEqual((await pool.query('SELECT 1 AS a')).rows[0].a, 1)
  await pool.end()
})
