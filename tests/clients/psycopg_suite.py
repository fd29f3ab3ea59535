"""psycopg 3 and its pool, feature by feature: an equivalent of its own test suite, which its distributions do not carry. Runs by pytest against
whatever PGHOST, PGPORT, PGUSER and PGDATABASE name (tools/suites psycopg), and asks nothing about where it is connected to."""
import asyncio
import datetime as dt
import decimal
import ipaddress
import threading
import time
import uuid

import dbapi20
import psycopg
import psycopg.types.composite
import psycopg.types.enum
import psycopg.types.hstore
import psycopg_pool
import pytest
from psycopg import errors, pq, rows, sql
from psycopg.types.json import Json, Jsonb
from psycopg.types.multirange import Multirange
from psycopg.types.range import Range


@pytest.fixture
def conn():
    with psycopg.connect() as connection:
        yield connection


@pytest.fixture
def auto():
    with psycopg.connect(autocommit=True) as connection:
        yield connection


@pytest.fixture
def table(auto):
    auto.execute("DROP TABLE IF EXISTS public.suite; CREATE TABLE public.suite (id serial PRIMARY KEY, n int, t text, b bytea)")
    return "public.suite"


class TestDbApi(dbapi20.DatabaseAPI20Test):
    driver = psycopg
    connect_args = ()
    connect_kw_args = {}
    lower_func = "lower"

    def test_setoutputsize(self):
        pass

    def test_nextset(self):
        pass


VALUES = [
    (1, "int2"), (2**40, "int8"), (10**30, "numeric"), (1.5, "float8"), (float("inf"), "float8"), (decimal.Decimal("1.2300"), "numeric"),
    (decimal.Decimal("NaN"), "numeric"), (True, "bool"), ("", "text"), ("木'\"\\\n", "text"), (b"\x00\xff'\\", "bytea"),
    (dt.date(1, 1, 1), "date"), (dt.date(9999, 12, 31), "date"), (dt.time(23, 59, 59, 999999), "time"),
    (dt.time(1, 2, 3, tzinfo=dt.timezone(dt.timedelta(hours=5))), "timetz"), (dt.datetime(2020, 2, 29, 1, 2, 3, 4), "timestamp"),
    (dt.datetime(2020, 2, 29, tzinfo=dt.timezone.utc), "timestamptz"), (dt.timedelta(days=-3, microseconds=7), "interval"),
    (uuid.UUID(int=7), "uuid"), (ipaddress.ip_address("10.0.0.1"), "inet"), (ipaddress.ip_network("2001:db8::/32"), "cidr"),
    ([1, None, 3], "int4[]"), ([["a", "b"], ["c", None]], "text[]"), ([], "int4[]"), ([b"x", b"\x00"], "bytea[]"),
    (Range(1, 5), "int4range"), (Range(None, None, "()"), "numrange"), (Range(empty=True), "daterange"),
    (Multirange([Range(1, 3), Range(7, 9)]), "int4multirange"), (None, "text"),
]


@pytest.mark.parametrize("binary", [False, True], ids=["text", "binary"])
@pytest.mark.parametrize("value,ty", VALUES, ids=[f"{ty}-{n}" for n, (_, ty) in enumerate(VALUES)])
def test_values_come_back(conn, value, ty, binary):
    got = conn.execute(f"SELECT %b::{ty}" if binary else f"SELECT %s::{ty}", [value], binary=binary).fetchone()[0]
    assert got == value or got != got and value != value


@pytest.mark.parametrize("wrap", [Json, Jsonb])
def test_json(conn, wrap):
    document = {"a": [1, 2.5, None, "木"], "b": {"c": True}}
    assert conn.execute("SELECT %s", [wrap(document)]).fetchone()[0] == document


def test_row_factories(conn):
    assert conn.cursor(row_factory=rows.dict_row).execute("SELECT 1 AS a, 2 AS b").fetchone() == {"a": 1, "b": 2}
    assert conn.cursor(row_factory=rows.namedtuple_row).execute("SELECT 1 AS a").fetchone().a == 1
    assert conn.cursor(row_factory=rows.scalar_row).execute("SELECT 7").fetchone() == 7


def test_description(conn, table):
    cursor = conn.execute(f"SELECT id, n, t, b, 1.5::numeric(10, 3) AS x, 'a'::varchar(7) AS v FROM {table}")
    columns = cursor.description
    assert [c.name for c in columns] == ["id", "n", "t", "b", "x", "v"]
    assert [c.type_code for c in columns] == [23, 23, 25, 17, 1700, 1043]
    assert (columns[4].precision, columns[4].scale, columns[5].display_size) == (10, 3, 7)
    result = cursor.pgresult
    assert result.ftable(0) and result.ftablecol(1) == 2 and result.ftable(4) == 0


def test_several_statements_in_one_string(auto, table):
    cursor = auto.execute(f"INSERT INTO {table} (n) VALUES (1); SELECT n FROM {table}; DELETE FROM {table}")
    assert cursor.rowcount == 1
    assert cursor.nextset() and cursor.fetchall() == [(1,)]
    assert cursor.nextset() and cursor.statusmessage == "DELETE 1" and not cursor.nextset()


def test_a_string_that_defines_and_uses(auto):
    cursor = auto.execute("CREATE TEMP TABLE made (a int); INSERT INTO made VALUES (1), (2); SELECT sum(a) FROM made")
    while cursor.nextset():
        pass
    assert cursor.fetchone() == (3,)


def test_executemany(conn, table):
    cursor = conn.cursor()
    cursor.executemany(f"INSERT INTO {table} (n) VALUES (%s) RETURNING n", [(n,) for n in range(100)], returning=True)
    got = [cursor.fetchone()[0]]
    while cursor.nextset():
        got.append(cursor.fetchone()[0])
    assert got == list(range(100))
    cursor.executemany(f"UPDATE {table} SET t = %s WHERE n = %s", [("x", n) for n in range(100)])
    assert cursor.rowcount == 100


def test_an_error_in_executemany_undoes_it(conn, table):
    with pytest.raises(errors.UniqueViolation), conn.transaction():
        conn.cursor().executemany(f"INSERT INTO {table} (id) VALUES (%s)", [(5000,), (5001,), (5000,)])
    assert conn.execute(f"SELECT count(*) FROM {table} WHERE id >= 5000").fetchone() == (0,)


def test_prepared_after_a_threshold(conn):
    conn.prepare_threshold = 2
    for n in range(6):
        assert conn.execute("SELECT %s::int + 1", [n]).fetchone() == (n + 1,)
    assert conn.execute("SELECT count(*) FROM pg_prepared_statements").fetchone()[0] == 1


def test_prepared_at_once_and_evicted(conn):
    conn.prepared_max = 3
    for n in range(10):
        assert conn.execute(f"SELECT {n}, %s::text", ["x"], prepare=True).fetchone() == (n, "x")
    assert conn.execute("SELECT count(*) FROM pg_prepared_statements", prepare=False).fetchone()[0] <= 3


def test_prepared_statements_and_ddl(auto, table):
    query = f"SELECT * FROM {table}"
    for _ in range(3):
        auto.execute(query, prepare=True)
    auto.execute(f"ALTER TABLE {table} ADD extra int")
    with pytest.raises(errors.FeatureNotSupported, match="cached plan"):
        auto.execute(query, prepare=True)


def test_server_cursor(conn, table):
    conn.execute(f"INSERT INTO {table} (n) SELECT generate_series(1, 1000)")
    with conn.cursor("named") as cursor:
        cursor.itersize = 64
        cursor.execute(f"SELECT n FROM {table} ORDER BY n")
        assert cursor.fetchone() == (1,) and [r[0] for r in cursor.fetchmany(3)] == [2, 3, 4]
        assert sum(r[0] for r in cursor) == 500500 - 10


def test_server_cursor_scrolls_and_holds(conn, table):
    conn.execute(f"INSERT INTO {table} (n) SELECT generate_series(1, 10)")
    cursor = conn.cursor("held", scrollable=True, withhold=True)
    cursor.execute(f"SELECT n FROM {table} ORDER BY n")
    conn.commit()
    cursor.scroll(5)
    assert cursor.fetchone() == (6,)
    cursor.scroll(0, mode="absolute")
    assert cursor.fetchone() == (1,)
    cursor.close()


def test_binary_server_cursor(conn):
    with conn.cursor("bin", binary=True) as cursor:
        cursor.execute("SELECT n, n::text FROM generate_series(1, 5) n")
        assert cursor.fetchall() == [(n, str(n)) for n in range(1, 6)]


def test_stream(conn):
    assert [n for n, in conn.cursor().stream("SELECT generate_series(1, 2000)")] == list(range(1, 2001))


def test_a_stream_that_fails(conn):
    with pytest.raises(errors.DivisionByZero):
        for _ in conn.cursor().stream("SELECT 1 / (50 - n) FROM generate_series(1, 100) n"):
            pass
    conn.rollback()
    assert conn.execute("SELECT 1").fetchone() == (1,)


def test_client_and_raw_cursors(conn):
    assert psycopg.ClientCursor(conn).execute("SELECT %s, %s", ["it's", 1]).fetchone() == ("it's", 1)
    assert psycopg.RawCursor(conn).execute("SELECT $1::int * $2::int", [6, 7]).fetchone() == (42,)


@pytest.mark.parametrize("form", ["TEXT", "BINARY", "CSV"])
def test_copy_both_ways(conn, table, form):
    data = []
    conn.execute(f"INSERT INTO {table} (n, t, b) SELECT n, repeat('木', n % 7), decode('00ff', 'hex') FROM generate_series(1, 500) n")
    with conn.cursor().copy(f"COPY (SELECT n, t, b FROM {table} ORDER BY n) TO STDOUT ({'FORMAT ' + form})") as copy:
        data = b"".join(copy)
    conn.execute(f"TRUNCATE {table}")
    with conn.cursor().copy(f"COPY {table} (n, t, b) FROM STDIN (FORMAT {form})") as copy:
        for at in range(0, len(data), 777):
            copy.write(data[at:at + 777])
    assert conn.execute(f"SELECT count(*), sum(n), sum(length(t)) FROM {table}").fetchone() == (500, 125250, 1497)


def test_copy_rows(conn, table):
    with conn.cursor().copy(f"COPY {table} (n, t) FROM STDIN") as copy:
        for n in range(10):
            copy.write_row((n, None if n % 2 else "tab\t"))
    with conn.cursor().copy(f"COPY (SELECT n, t FROM {table} ORDER BY n) TO STDOUT (FORMAT BINARY)") as copy:
        copy.set_types(["int4", "text"])
        assert list(copy.rows()) == [(n, None if n % 2 else "tab\t") for n in range(10)]


def test_copy_that_fails_leaves_a_session(conn, table):
    with pytest.raises(errors.InvalidTextRepresentation), conn.cursor().copy(f"COPY {table} (n) FROM STDIN") as copy:
        copy.write("1\nx\n")
    conn.rollback()
    with pytest.raises(ZeroDivisionError), conn.cursor().copy(f"COPY {table} (n) FROM STDIN") as copy:
        copy.write("1\n")
        raise ZeroDivisionError
    conn.rollback()
    assert conn.execute("SELECT 1").fetchone() == (1,)


def test_pipeline(auto):
    with auto.pipeline():
        cursors = [auto.execute("SELECT %s::int", [n]) for n in range(200)]
    assert [c.fetchone()[0] for c in cursors] == list(range(200))


def test_pipeline_errors(auto):
    with pytest.raises(errors.DivisionByZero), auto.pipeline() as pipeline:
        one = auto.execute("SELECT 1")
        auto.execute("SELECT 1/0")
        auto.execute("SELECT 2")
        pipeline.sync()
    assert one.fetchone() == (1,)
    with auto.pipeline() as pipeline:
        with pytest.raises(errors.UndefinedTable):
            auto.execute("SELECT * FROM nosuch").fetchone()
        with pytest.raises(errors.PipelineAborted):
            auto.execute("SELECT 3").fetchone()
        pipeline.sync()
        assert auto.execute("SELECT 4").fetchone() == (4,)


def test_pipeline_in_transactions(conn, table):
    with conn.pipeline():
        with conn.transaction():
            conn.execute(f"INSERT INTO {table} (n) VALUES (1)")
        with pytest.raises(errors.DivisionByZero), conn.transaction():
            conn.execute(f"INSERT INTO {table} (n) VALUES (2)")
            conn.execute("SELECT 1/0").fetchone()
        assert conn.execute(f"SELECT array_agg(n) FROM {table}").fetchone() == ([1],)


def test_nested_transactions(conn, table):
    with conn.transaction():
        conn.execute(f"INSERT INTO {table} (n) VALUES (1)")
        with pytest.raises(ZeroDivisionError), conn.transaction():
            conn.execute(f"INSERT INTO {table} (n) VALUES (2)")
            raise ZeroDivisionError
        with conn.transaction() as inner:
            conn.execute(f"INSERT INTO {table} (n) VALUES (3)")
            raise psycopg.Rollback(inner)
    assert conn.execute(f"SELECT array_agg(n) FROM {table}").fetchone() == ([1],)


@pytest.mark.parametrize("level", list(psycopg.IsolationLevel))
def test_isolation(conn, level):
    conn.isolation_level = level
    assert conn.execute("SHOW transaction_isolation").fetchone()[0].replace(" ", "_").upper() == level.name


def test_read_only_and_deferrable(conn, table):
    conn.read_only, conn.deferrable = True, True
    with pytest.raises(errors.ReadOnlySqlTransaction):
        conn.execute(f"INSERT INTO {table} (n) VALUES (1)")


def test_two_phase(conn, table):
    xid = conn.xid(1, f"gtrid-{uuid.uuid4()}", "bqual")
    conn.tpc_begin(xid)
    conn.execute(f"INSERT INTO {table} (n) VALUES (1)")
    conn.tpc_prepare()
    with psycopg.connect() as other:
        assert str(xid) in [str(x) for x in other.tpc_recover()]
    conn.tpc_commit()
    assert conn.execute(f"SELECT n FROM {table}").fetchone() == (1,)


def test_transaction_status(conn):
    status = lambda: conn.info.transaction_status.name
    assert status() == "IDLE"
    conn.execute("SELECT 1")
    assert status() == "INTRANS"
    with pytest.raises(errors.SyntaxError):
        conn.execute("SELEC")
    assert status() == "INERROR"
    with pytest.raises(errors.InFailedSqlTransaction):
        conn.execute("SELECT 1")
    conn.rollback()
    assert status() == "IDLE"


def test_notifications_while_idle(auto):
    auto.execute("LISTEN channel")
    with psycopg.connect(autocommit=True) as other:
        other.execute("NOTIFY channel, 'one'")
        other.execute("SELECT pg_notify('channel', %s)", ["two"])
    got = list(auto.notifies(timeout=5, stop_after=2))
    assert [n.payload for n in got] == ["one", "two"]
    auto.execute("UNLISTEN *")
    auto.execute("NOTIFY channel, 'three'")
    assert list(auto.notifies(timeout=0.2)) == []


def test_notification_handlers(auto):
    got = []
    auto.add_notify_handler(got.append)
    auto.execute("LISTEN c")
    auto.execute("NOTIFY c, 'x'")
    auto.execute("SELECT 1")
    assert [(n.channel, n.payload) for n in got] == [("c", "x")] and got[0].pid == auto.info.backend_pid


def test_notices(auto):
    got = []
    auto.add_notice_handler(lambda d: got.append((d.severity, d.message_primary)))
    auto.execute("DO $$ BEGIN RAISE NOTICE 'one'; RAISE WARNING 'two'; END $$")
    auto.execute("DROP TABLE IF EXISTS nosuch")
    assert got == [("NOTICE", "one"), ("WARNING", "two"), ("NOTICE", 'table "nosuch" does not exist, skipping')]


def test_diagnostics(conn, table):
    with pytest.raises(errors.UniqueViolation) as info:
        conn.execute(f"INSERT INTO {table} (id) VALUES (1), (1)")
    diag = info.value.diag
    assert (diag.sqlstate, diag.schema_name, diag.table_name, diag.constraint_name) == ("23505", "public", "suite", "suite_pkey")
    assert diag.message_detail and diag.source_function
    conn.rollback()
    with pytest.raises(errors.UndefinedColumn) as info:
        conn.execute("SELECT 1,\n  nosuch")
    assert info.value.diag.statement_position == "13"


@pytest.mark.parametrize("safe", [False, True], ids=["cancel", "cancel_safe"])
def test_cancel(auto, safe):
    timer = threading.Timer(0.3, (lambda: auto.cancel_safe(timeout=5)) if safe else auto.cancel)
    timer.start()
    with pytest.raises(errors.QueryCanceled):
        auto.execute("SELECT pg_sleep(20)")
    timer.join()
    assert auto.execute("SELECT 1").fetchone() == (1,)


def test_statement_timeout(auto):
    auto.execute("SET statement_timeout = 100")
    with pytest.raises(errors.QueryCanceled):
        auto.execute("SELECT pg_sleep(20)")


def test_terminated(auto):
    with psycopg.connect(autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(%s)", [auto.info.backend_pid])
    with pytest.raises(psycopg.OperationalError):
        for _ in range(20):
            auto.execute("SELECT 1")
            time.sleep(0.1)
    assert auto.closed


def test_parameters(auto):
    auto.execute("SET application_name = 'suite'; SET TimeZone = 'Asia/Shanghai'")
    assert auto.info.parameter_status("application_name") == "suite"
    assert auto.info.timezone.key == "Asia/Shanghai"
    assert auto.info.server_version >= 140000 and auto.info.encoding == "utf-8"
    assert auto.info.parameter_status("is_superuser") in ("on", "off")


def test_options():
    with psycopg.connect(options="-c search_path=pg_catalog -c statement_timeout=7s", application_name="木 app") as conn:
        assert conn.execute("SHOW search_path").fetchone() == ("pg_catalog",)
        assert conn.execute("SHOW statement_timeout").fetchone() == ("7s",)


def test_no_such_database_or_login():
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        psycopg.connect(dbname="nosuch")
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        psycopg.connect(user="nosuch")


def test_big_values(conn):
    text, data = "x" * 5_000_000, bytes(range(256)) * 20_000
    assert conn.execute("SELECT %s, %s", [text, data], binary=True).fetchone() == (text, data)


def test_many_columns_and_parameters(conn):
    assert len(conn.execute("SELECT " + ", ".join(["1"] * 1600)).fetchone()) == 1600
    values = list(range(5000))
    query = sql.SQL("SELECT sum(x) FROM unnest(ARRAY[{}]::int[]) x").format(sql.SQL(", ").join(sql.Placeholder() * len(values)))
    assert conn.execute(query, values).fetchone() == (sum(values),)


def test_empty_queries(auto):
    for text in ["", ";", "  ", "-- nothing", "/* nothing */"]:
        assert auto.execute(text).pgresult.status == pq.ExecStatus.EMPTY_QUERY


def test_libpq_prepare_describe_and_close(auto):
    pgconn = auto.pgconn
    assert pgconn.prepare(b"named", b"SELECT $1::int8 AS a, 'x'::varchar(3) AS b").status == pq.ExecStatus.COMMAND_OK
    described = pgconn.describe_prepared(b"named")
    assert (described.nparams, described.param_type(0), described.fname(0), described.ftype(1)) == (1, 20, b"a", 1043)
    assert pgconn.exec_prepared(b"named", [b"7"]).get_value(0, 0) == b"7"
    assert pgconn.exec_(b"BEGIN; DECLARE c CURSOR FOR SELECT 1 AS one").status == pq.ExecStatus.COMMAND_OK
    assert pgconn.describe_portal(b"c").fname(0) == b"one"
    assert pgconn.exec_(b"DISCARD ALL").status == pq.ExecStatus.FATAL_ERROR
    pgconn.exec_(b"ROLLBACK")
    assert pgconn.exec_(b"DISCARD ALL").status == pq.ExecStatus.COMMAND_OK
    assert pgconn.describe_prepared(b"named").error_field(pq.DiagnosticField.SQLSTATE) == b"26000"


def test_large_objects(conn):
    number = conn.execute("SELECT lo_from_bytea(0, %s)", [b"some bytes"]).fetchone()[0]
    assert conn.execute("SELECT lo_get(%s, 5, 5)", [number]).fetchone() == (b"bytes",)
    conn.execute("SELECT lo_unlink(%s)", [number])


def test_composites_enums_and_hstore(auto):
    auto.execute("DROP TYPE IF EXISTS pair; DROP TYPE IF EXISTS mood")
    auto.execute("CREATE TYPE pair AS (a int, b text); CREATE TYPE mood AS ENUM ('sad', 'ok')")
    info = psycopg.types.composite.CompositeInfo.fetch(auto, "pair")
    psycopg.types.composite.register_composite(info, auto)
    assert auto.execute("SELECT ROW(1, 'x')::pair").fetchone()[0] == info.python_type(1, "x")
    enum = psycopg.types.enum.EnumInfo.fetch(auto, "mood")
    assert list(enum.labels) == ["sad", "ok"]
    auto.execute("CREATE EXTENSION IF NOT EXISTS hstore")
    hstore = psycopg.types.TypeInfo.fetch(auto, "hstore")
    psycopg.types.hstore.register_hstore(hstore, auto)
    assert auto.execute("SELECT 'a=>1, b=>NULL'::hstore").fetchone()[0] == {"a": "1", "b": None}
    auto.execute("DROP TYPE pair; DROP TYPE mood; DROP EXTENSION hstore")


def test_async():
    async def work():
        async with await psycopg.AsyncConnection.connect(autocommit=True) as conn:
            assert await (await conn.execute("SELECT 1")).fetchone() == (1,)
            async with conn.pipeline():
                cursors = [await conn.execute("SELECT %s::int", [n]) for n in range(50)]
            assert [(await c.fetchone())[0] for c in cursors] == list(range(50))
            task = asyncio.create_task(conn.execute("SELECT pg_sleep(20)"))
            await asyncio.sleep(0.3)
            await conn.cancel_safe()
            with pytest.raises(errors.QueryCanceled):
                await task
            async with conn.cursor().copy("COPY (SELECT generate_series(1, 1000)) TO STDOUT") as copy:
                assert len([row async for row in copy.rows()]) == 1000
            return [n async for n, in conn.cursor().stream("SELECT generate_series(1, 100)")]

    assert asyncio.run(work()) == list(range(1, 101))


def test_many_threads_share_one_connection(auto):
    failures = []

    def work(number):
        for n in range(20):
            if auto.execute("SELECT %s::int * 1000 + %s::int", [number, n]).fetchone() != (number * 1000 + n,):
                failures.append((number, n))

    threads = [threading.Thread(target=work, args=[n]) for n in range(8)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert failures == []


def test_pool():
    with psycopg_pool.ConnectionPool(min_size=2, max_size=4, check=psycopg_pool.ConnectionPool.check_connection) as pool:
        pool.wait()

        def work(number):
            with pool.connection() as conn:
                conn.execute("SELECT set_config('application_name', 'x', false)") if number % 3 else None
                return conn.execute("SELECT %s::int", [number]).fetchone()[0]

        results = []
        threads = [threading.Thread(target=lambda n=n: results.append(work(n))) for n in range(24)]
        [t.start() for t in threads]
        [t.join() for t in threads]
        assert sorted(results) == list(range(24))
        with pool.connection() as conn:
            conn.execute("SELECT pg_terminate_backend(pg_backend_pid())") if False else conn.close()
        with pool.connection() as conn:
            assert conn.execute("SELECT 1").fetchone() == (1,)


def test_a_pool_of_none():
    with psycopg_pool.NullConnectionPool(max_size=3) as pool:
        for n in range(10):
            with pool.connection() as conn:
                assert conn.execute("SELECT %s::int", [n]).fetchone() == (n,)
