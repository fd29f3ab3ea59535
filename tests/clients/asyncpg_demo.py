"""The demo's queries by asyncpg: SCRAM, prepared statements, binary throughout, cursors by portal with row limits."""
import asyncio
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
    try:
        await conn.execute("UPDATE crm.customers SET grade = 'x'")
        raise SystemExit("UPDATE was not refused")
    except asyncpg.FeatureNotSupportedError:
        pass
    assert await conn.fetchval("SELECT count(*) FROM crm.products") == 50
    await conn.close()
    print("all right")


asyncio.run(main())
