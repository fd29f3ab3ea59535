"""The demo's queries by asyncpg: SCRAM, prepared statements, binary throughout, cursors by portal with row limits."""
import asyncio
import io
import sys

import asyncpg

port, database = sys.argv[1:3]


async def connect(login, **settings):
    return await asyncpg.connect(host="127.0.0.1", port=int(port), database=database, user=login, password=login[::-1],
                                 server_settings=settings)


async def main():
    conn = await connect("analyst")
    statement = await conn.prepare("SELECT id, name, phone, birth FROM crm.customers WHERE id = $1")
    assert [a.name for a in statement.get_attributes()] == ["id", "name", "phone", "birth"]
    for person in range(1, 8):
        row = await statement.fetchrow(person)
        assert row["id"] == person and "*" in row["name"] and "****" in row["phone"] and row["birth"].month == 1, row
    await conn.close()

    conn = await connect("support", **{"menshen.purpose": "customer_service", "menshen.case": "CS-004711"})
    row = await conn.fetchrow("SELECT name, phone FROM crm.customers WHERE id = $1", 1)
    assert "*" not in row["name"] + row["phone"], row
    async with conn.transaction():
        seen = [r async for r in conn.cursor("SELECT id, phone FROM crm.customers ORDER BY id", prefetch=7)]
    assert len(seen) > 150 and all(len(r) == 2 for r in seen)
    changed = await conn.fetch("UPDATE crm.customers SET grade = $1 WHERE id < $2 RETURNING id, phone, id_card", "x", 4)
    assert len(changed) == 2 and all("*" in (r["id_card"] or "*") for r in changed), changed
    try:
        await conn.execute("UPDATE crm.customers SET id_card = 'x'")
        raise SystemExit("a masked column was written")
    except asyncpg.InsufficientPrivilegeError:
        pass
    out = io.BytesIO()
    await conn.copy_from_query("SELECT id, id_card FROM crm.customers WHERE id < $1 ORDER BY id", 9, output=out, format="csv")
    assert b"*" in out.getvalue() and b"menshen" not in out.getvalue(), out.getvalue()
    await conn.copy_records_to_table("orders", schema_name="crm", columns=["id", "customer_id", "item"], records=[(80001, 1, "r")])
    assert await conn.fetchval("SELECT item FROM crm.orders WHERE id = 80001") == "r"
    assert await conn.fetchval("SELECT count(*) FROM crm.products") == 50
    await conn.close()

    # Notifications come while the client is idle.
    conn, other, heard = await connect("support"), await connect("analyst"), asyncio.Queue()
    await conn.add_listener("shop", lambda _conn, _pid, channel, payload: heard.put_nowait((channel, payload)))
    for n in range(3):
        await other.execute(f"NOTIFY shop, 'number {n}'")
        assert await asyncio.wait_for(heard.get(), 20) == ("shop", f"number {n}")
    await conn.close()
    await other.close()
    print("all right")


asyncio.run(main())
