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
    try:
        conn.execute("COPY crm.customers TO STDOUT")
        raise SystemExit("COPY was not refused")
    except psycopg.errors.FeatureNotSupported as e:
        assert "copy-of-protected-relation" in e.diag.message_detail
    conn.rollback()
    assert conn.execute("SELECT 1").fetchone() == (1,)

with connect("intern") as conn:
    try:
        conn.execute("SELECT phone FROM crm.customers")
        raise SystemExit("the intern was not refused")
    except psycopg.errors.InsufficientPrivilege:
        pass

print("all right")
