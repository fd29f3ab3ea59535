"""libpq of PostgreSQL 18 (LD_LIBRARY_PATH) through Menshen: versions of the protocol, and cancellation by whatever key comes of it.
Arguments: port, database, what the server speaks (3.0 or 3.2)."""
import os
import sys
import threading

os.environ["PSYCOPG_IMPL"] = "python"
import psycopg

port, database, newest = sys.argv[1:]
assert psycopg.pq.version() >= 180000, psycopg.pq.version()
WHERE = f"host=127.0.0.1 port={port} dbname={database} user=trusted"


def connect(least, most):
    return psycopg.connect(f"{WHERE} min_protocol_version={least} max_protocol_version={most}", autocommit=True)


for least, most in [("3.0", "3.0"), ("3.0", "3.2"), ("3.0", "latest"), ("3.2", "3.2")]:
    try:
        connection = connect(least, most)
    except psycopg.OperationalError as error:
        # The client's own judgement of what it was told.
        assert (least, newest) == ("3.2", "3.0") and "protocol version" in str(error), error
        continue
    assert (least, newest) != ("3.2", "3.0")
    timer = threading.Timer(0.3, connection.cancel)
    timer.start()
    try:
        connection.execute("SELECT pg_sleep(20)")
        raise AssertionError("not cancelled")
    except psycopg.errors.QueryCanceled:
        pass
    timer.join()
    assert connection.execute("SELECT 1").fetchone() == (1,)
    connection.close()
print("all right")
