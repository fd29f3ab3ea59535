"""The demo's queries by psycopg 3: SCRAM, server-side prepared statements, text and binary, cursors by portal."""
import sys

import psycopg

port, database = sys.argv[1:3]


def connect(login, options=""):
    return psycopg.connect(host="127.0.0.1", port=port, dbname=database, user=login, password=login[::-1],
                           options=options, prepare_threshold=0)


SQL = "SELECT id, name, phone, birth FROM crm.customers WHERE id = %s"

with connect("analyst") as conn:
    for binary in (False, True):
        with conn.cursor(binary=binary) as cur:
            for person in range(1, 8):
                row = cur.execute(SQL, (person,)).fetchone()
                assert row[0] == person and "*" in row[1] and "****" in row[2] and row[3].month == 1, row
            assert [d.name for d in cur.description] == ["id", "name", "phone", "birth"]

with connect("support", "-c menshen.purpose=customer_service -c menshen.case=CS-004711") as conn:
    with conn.cursor(binary=True) as cur:
        row = cur.execute(SQL, (1,)).fetchone()
        assert "*" not in row[1] + row[2], row
        rows = cur.execute("SELECT c.phone, o.item FROM crm.customers c JOIN crm.orders o ON o.customer_id = c.id LIMIT 20").fetchall()
        assert len(rows) == 20 and all(len(r) == 2 for r in rows)
    with conn.pipeline():
        a = conn.execute("SELECT phone FROM crm.customers WHERE id = 2")
        b = conn.execute("SELECT count(*) FROM crm.products")
    assert len(a.fetchone()) == 1 and b.fetchone() == (50,)
    with conn.cursor() as cur:
        for form in ("", " (FORMAT binary)", " (FORMAT csv, HEADER)"):
            with cur.copy(f"COPY (SELECT id, phone, id_card FROM crm.customers ORDER BY id LIMIT 5) TO STDOUT{form}") as copy:
                data = b"".join(bytes(block) for block in copy)
            assert b"*" in data and b"menshen" not in data, data
        with cur.copy("COPY crm.customers (id, phone) TO STDOUT") as copy:
            assert all(len(row) == 2 for row in copy.rows())
        with cur.copy("COPY crm.orders (id, customer_id, item) FROM STDIN") as copy:
            copy.write_row((70001, 1, "copied"))
        assert cur.execute("SELECT item FROM crm.orders WHERE id = 70001").fetchone() == ("copied",)
    with conn.cursor("named") as cur:
        cur.itersize = 3
        rows = list(cur.execute("SELECT id, phone FROM crm.customers ORDER BY id LIMIT 10"))
        assert len(rows) == 10 and all(len(r) == 2 for r in rows)
    try:
        conn.execute("UPDATE crm.customers SET id_card = 'x' WHERE id = 1")
        raise SystemExit("a masked column was written")
    except psycopg.errors.InsufficientPrivilege as e:
        assert "write-masked-column" in e.diag.message_detail
    conn.rollback()
    assert conn.execute("SELECT 1").fetchone() == (1,)

with connect("support") as conn, connect("analyst") as other:
    # Notifications come while the client is idle.
    conn.autocommit = other.autocommit = True
    conn.execute("LISTEN shop")
    for n in range(3):
        other.execute(f"NOTIFY shop, 'number {n}'")
        heard = list(conn.notifies(timeout=20, stop_after=1))
        assert [(h.channel, h.payload) for h in heard] == [("shop", f"number {n}")], heard

with connect("intern") as conn:
    try:
        conn.execute("SELECT phone FROM crm.customers")
        raise SystemExit("the intern was not refused")
    except psycopg.errors.InsufficientPrivilege:
        pass

print("all right")
