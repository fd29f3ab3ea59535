import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.StringReader;
import java.io.StringWriter;
import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Method;
import java.math.BigDecimal;
import java.nio.charset.StandardCharsets;
import java.sql.Array;
import java.sql.BatchUpdateException;
import java.sql.CallableStatement;
import java.sql.Connection;
import java.sql.DatabaseMetaData;
import java.sql.Date;
import java.sql.DriverManager;
import java.sql.ParameterMetaData;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.ResultSetMetaData;
import java.sql.SQLException;
import java.sql.SQLXML;
import java.sql.Savepoint;
import java.sql.Statement;
import java.sql.Timestamp;
import java.sql.Types;
import java.time.LocalDate;
import java.time.OffsetDateTime;
import java.time.ZoneOffset;
import java.util.Arrays;
import java.util.Calendar;
import java.util.HexFormat;
import java.util.Map;
import java.util.Properties;
import java.util.Set;
import java.util.TimeZone;
import java.util.TreeMap;
import org.postgresql.PGConnection;
import org.postgresql.PGNotification;
import org.postgresql.PGStatement;
import org.postgresql.copy.CopyIn;
import org.postgresql.copy.CopyManager;
import org.postgresql.copy.PGCopyInputStream;
import org.postgresql.copy.PGCopyOutputStream;
import org.postgresql.jdbc.PreferQueryMode;
import org.postgresql.util.PGobject;

/**
 * What Java programs do with the shop, as a transcript: arguments PORT DATABASE LOGIN OPTIONS. Through Menshen it must print what it prints
 * on a masked copy. Whatever a part throws is printed behind "!!", which no part may do on the copy.
 */
public final class Shop {
    static String port, database, login, options;

    interface Part {
        void run(Connection c) throws Exception;
    }

    public static void main(String[] arguments) throws Exception {
        port = arguments[0];
        database = arguments[1];
        login = arguments[2];
        options = arguments[3];
        TimeZone.setDefault(TimeZone.getTimeZone("Asia/Shanghai"));
        System.setOut(new java.io.PrintStream(new java.io.FileOutputStream(java.io.FileDescriptor.out), false, "UTF-8"));
        for (String mode : new String[] {"simple", "extended", "extendedForPrepared", "extendedCacheEverything"}) {
            part("queries, " + mode, Shop::queries, "preferQueryMode", mode);
            part("fetch size, " + mode, Shop::fetch, "preferQueryMode", mode);
            part("writing, " + mode, Shop::writing, "preferQueryMode", mode);
            part("transactions, " + mode, Shop::transactions, "preferQueryMode", mode);
            part("updatable result sets, " + mode, Shop::updatable, "preferQueryMode", mode);
        }
        for (String threshold : new String[] {"-1", "0", "1", "2", "5"}) {
            for (String binary : new String[] {"false", "true"}) {
                part("prepared, threshold " + threshold + ", binary " + binary, Shop::prepared, "prepareThreshold", threshold,
                    "binaryTransfer", binary, "binaryTransferEnable", "NUMERIC,TIMESTAMPTZ,DATE,TIMESTAMP,TIME,TIMETZ,TEXT_ARRAY");
            }
        }
        part("batches", Shop::batches);
        part("batches, rewritten", Shop::batches, "reWriteBatchedInserts", "true");
        part("batches, one by one", Shop::batches, "prepareThreshold", "1", "autosave", "always");
        part("generated keys", Shop::keys);
        part("copy", Shop::copy);
        part("cancel", Shop::cancel);
        for (String autosave : new String[] {"never", "conservative", "always"}) {
            part("autosave " + autosave, Shop::autosave, "autosave", autosave, "cleanupSavepoints", "true");
        }
        part("types", Shop::types);
        part("types, text", Shop::types, "preferQueryMode", "simple");
        part("types, binary", Shop::types, "prepareThreshold", "-1");
        part("calls and escapes", Shop::calls);
        part("session", Shop::session, "targetServerType", "primary", "ApplicationName", "shop", "currentSchema", "crm,public",
            "assumeMinServerVersion", "14", "readOnlyMode", "always", "tcpKeepAlive", "true", "hostRecheckSeconds", "1");
        part("result set metadata", Shop::columns);
        part("database metadata", Shop::metadata);
        System.out.flush();
    }

    static Connection connect(String... more) throws SQLException {
        Properties properties = new Properties();
        properties.setProperty("user", login);
        properties.setProperty("password", new StringBuilder(login).reverse().toString());
        properties.setProperty("options", options);
        for (int i = 0; i < more.length; i += 2) {
            properties.setProperty(more[i], more[i + 1]);
        }
        return DriverManager.getConnection("jdbc:postgresql://127.0.0.1:" + port + "/" + database, properties);
    }

    static void part(String name, Part part, String... properties) {
        System.out.println("== " + name);
        try (Connection c = connect(properties)) {
            part.run(c);
        } catch (Exception e) {
            System.out.println("!! " + name + ": " + e);
        }
    }

    static void say(Object... words) {
        System.out.println(Arrays.deepToString(words));
    }

    /** What must fail, and how. */
    static void fails(Part part, Connection c) {
        try {
            part.run(c);
            say("no error");
        } catch (SQLException e) {
            say("error", e.getSQLState());
        } catch (Exception e) {
            say("error", e.getClass());
        }
    }

    static Object plain(Object value) throws SQLException {
        if (value instanceof Array a) {
            return "array of " + a.getBaseTypeName() + " " + Arrays.deepToString((Object[]) a.getArray());
        }
        if (value instanceof byte[] b) {
            return HexFormat.of().formatHex(b);
        }
        if (value instanceof SQLXML x) {
            return "xml " + x.getString();
        }
        return value == null ? null : value.getClass().getSimpleName() + " " + value;
    }

    static int print(ResultSet rows) throws SQLException {
        return print(rows, Set.of());
    }

    /** All but these columns. */
    static int print(ResultSet rows, Set<String> without) throws SQLException {
        int width = rows.getMetaData().getColumnCount(), count = 0;
        while (rows.next()) {
            Object[] row = new Object[width];
            for (int i = 0; i < width; i++) {
                row[i] = without.contains(rows.getMetaData().getColumnName(i + 1)) ? "…" : plain(rows.getObject(i + 1));
            }
            say(row);
            count++;
        }
        rows.close();
        return count;
    }

    static final String[] QUERIES = {
        "SELECT * FROM crm.customers ORDER BY id LIMIT 5",
        "SELECT id, name, phone, email, id_card, birth FROM crm.customers WHERE id < 20 ORDER BY id",
        "SELECT c.name, o.item, o.total FROM crm.customers c JOIN crm.orders o ON o.customer_id = c.id ORDER BY o.id LIMIT 8",
        "SELECT grade, count(*), min(birth), max(phone) FROM crm.customers GROUP BY grade ORDER BY grade",
        "SELECT id FROM crm.customers WHERE phone LIKE '%**%' ORDER BY id LIMIT 3",
        "SELECT * FROM crm.v_contacts ORDER BY id LIMIT 3",
        "SELECT * FROM crm.products ORDER BY id LIMIT 3",
        "WITH c AS (SELECT * FROM crm.customers) SELECT name, phone FROM c ORDER BY id LIMIT 2",
        "SELECT lat, lon FROM crm.customer_locations ORDER BY id LIMIT 2",
        "VALUES (1, 'a'), (2, NULL)",
    };

    static void queries(Connection c) throws Exception {
        for (String sql : QUERIES) {
            try (Statement s = c.createStatement()) {
                say(sql, print(s.executeQuery(sql)));
                s.setMaxRows(2);
                say("at most two", print(s.executeQuery(sql)));
            }
            try (PreparedStatement s = c.prepareStatement(sql)) {
                say(print(s.executeQuery()));
            }
        }
        try (Statement s = c.createStatement()) {
            boolean rows = s.execute("SELECT 1; UPDATE crm.notes SET note = note WHERE id < 3; SELECT name FROM crm.customers WHERE id = 2; SELECT 2");
            while (rows || s.getUpdateCount() >= 0) {
                say(rows ? print(s.getResultSet()) : s.getUpdateCount());
                rows = s.getMoreResults();
            }
            fails(d -> s.executeQuery("SELECT nothing FROM crm.customers"), c);
            fails(d -> s.executeQuery("SELECT 1 / 0"), c);
            fails(d -> s.executeQuery("SELEC 1"), c);
            say(print(s.executeQuery("SELECT count(*) FROM crm.customers")));
        }
    }

    static void prepared(Connection c) throws Exception {
        try (PreparedStatement s = c.prepareStatement("SELECT id, name, phone, birth, created_at, id::numeric / 7, ARRAY[phone, grade] FROM crm.customers WHERE id = ? OR phone = ?");
            PreparedStatement t = c.prepareStatement("SELECT id, total, at, total * ? FROM crm.orders WHERE customer_id = ? ORDER BY id");
            PreparedStatement u = c.prepareStatement("UPDATE crm.orders SET status = ? WHERE id = ?")) {
            for (int i = 1; i < 9; i++) {
                s.setLong(1, i);
                s.setString(2, "nobody");
                say(i, print(s.executeQuery()), s.unwrap(PGStatement.class).isUseServerPrepare());
                t.setBigDecimal(1, new BigDecimal("1.5"));
                t.setLong(2, i);
                say(print(t.executeQuery()), t.getMetaData().getColumnCount());
                u.setString(1, "state " + i);
                u.setInt(2, i);
                say(u.executeUpdate());
                if (i == 6) {
                    // Another type for the same place: the driver prepares anew.
                    s.setInt(1, 3);
                    s.setNull(2, Types.VARCHAR);
                    say(print(s.executeQuery()));
                }
            }
            ParameterMetaData p = t.getParameterMetaData();
            say(p.getParameterCount(), p.getParameterTypeName(1), p.getParameterTypeName(2), p.getParameterClassName(2));
        }
        try (Statement s = c.createStatement()) {
            s.execute("DEALLOCATE ALL");
        }
        try (PreparedStatement s = c.prepareStatement("SELECT phone FROM crm.customers WHERE id = ANY (?) ORDER BY id")) {
            for (int i = 0; i < 6; i++) {
                s.setArray(1, c.createArrayOf("bigint", new Long[] {1L, 2L, (long) i}));
                say(print(s.executeQuery()));
            }
        }
    }

    static void fetch(Connection c) throws Exception {
        c.setAutoCommit(false);
        for (int size : new int[] {1, 7, 50, 1000}) {
            try (Statement s = c.createStatement()) {
                s.setFetchSize(size);
                say(size, print(s.executeQuery("SELECT id, name, phone FROM crm.customers WHERE id < 60 ORDER BY id")));
            }
            try (PreparedStatement s = c.prepareStatement("SELECT c.id, c.email, o.total FROM crm.customers c JOIN crm.orders o ON o.customer_id = c.id WHERE c.id < ? ORDER BY o.id")) {
                s.setFetchSize(size);
                s.setLong(1, 40);
                say(size, print(s.executeQuery()));
                s.setMaxRows(5);
                say(size, print(s.executeQuery()));
            }
        }
        // Two result sets read in turns, with other statements between; then the portal is closed before its end.
        try (Statement s = c.createStatement(); Statement t = c.createStatement(); Statement u = c.createStatement()) {
            s.setFetchSize(3);
            t.setFetchSize(2);
            ResultSet a = s.executeQuery("SELECT id, phone FROM crm.customers ORDER BY id");
            ResultSet b = t.executeQuery("SELECT id, total FROM crm.orders ORDER BY id DESC");
            for (int i = 0; i < 10; i++) {
                a.next();
                b.next();
                say(a.getLong(1), a.getString(2), b.getLong(1), b.getBigDecimal(2));
                say(print(u.executeQuery("SELECT max(id) FROM crm.products")));
            }
            a.setFetchSize(11);
            for (int i = 0; i < 20; i++) {
                a.next();
                say(a.getLong(1), a.getString("phone"));
            }
        }
        try (Statement s = c.createStatement(ResultSet.TYPE_SCROLL_INSENSITIVE, ResultSet.CONCUR_READ_ONLY, ResultSet.HOLD_CURSORS_OVER_COMMIT)) {
            ResultSet r = s.executeQuery("SELECT id, name FROM crm.customers ORDER BY id");
            r.last();
            say(r.getRow(), r.getString(2));
            r.absolute(5);
            say(r.getString(2));
            r.previous();
            c.commit();
            say(r.getString(2), r.isFirst());
        }
        // A cursor by name, as functions that return refcursor are read.
        try (Statement s = c.createStatement()) {
            s.execute("DECLARE named CURSOR FOR SELECT id, phone FROM crm.customers ORDER BY id");
            say(print(s.executeQuery("FETCH 3 FROM named")), print(s.executeQuery("FETCH FORWARD 2 FROM \"named\"")));
            s.execute("CLOSE named");
        }
        c.commit();
    }

    static void writing(Connection c) throws Exception {
        try (Statement s = c.createStatement()) {
            say(s.executeUpdate("UPDATE crm.customers SET grade = 'seen' WHERE id BETWEEN 5 AND 9"));
            say(s.executeUpdate("INSERT INTO crm.notes (id, customer_id, note) VALUES (500, 1, 'written'), (501, 2, NULL)"));
            say(s.executeUpdate("INSERT INTO crm.notes VALUES (500, 1, 'again') ON CONFLICT (id) DO UPDATE SET note = excluded.note"));
            say(s.executeLargeUpdate("DELETE FROM crm.notes WHERE id >= 500"));
            fails(d -> s.executeUpdate("INSERT INTO crm.notes (id) VALUES (1)"), c);
            fails(d -> s.executeUpdate("INSERT INTO crm.products (id, name) VALUES (1, 'x')"), c);
            say(print(s.executeQuery("UPDATE crm.customers SET grade = 'x' WHERE id < 4 RETURNING id, name, phone, grade")));
            say(s.execute("CREATE TEMP TABLE t (id serial PRIMARY KEY, at timestamptz DEFAULT now(), words text[])"));
            say(s.executeUpdate("INSERT INTO t (words) SELECT ARRAY[grade, city] FROM crm.customers WHERE id < 4"));
            say(print(s.executeQuery("SELECT id, words FROM t ORDER BY id")));
            s.execute("DROP TABLE t");
        }
    }

    static void batches(Connection c) throws Exception {
        for (boolean auto : new boolean[] {true, false}) {
            c.setAutoCommit(auto);
            try (PreparedStatement s = c.prepareStatement("INSERT INTO crm.orders (id, customer_id, item, total, status) VALUES (?, ?, ?, ?, ?)")) {
                for (int i = 0; i < 300; i++) {
                    s.setLong(1, 70000 + i);
                    s.setLong(2, 1 + i % 9);
                    s.setString(3, "item ' \\ " + i);
                    s.setBigDecimal(4, new BigDecimal(i * 1000));
                    s.setString(5, i % 7 == 0 ? null : "new");
                    s.addBatch();
                }
                say(s.executeBatch());
            }
            try (PreparedStatement s = c.prepareStatement("INSERT INTO crm.notes (id, note) VALUES (?, ?) ON CONFLICT (id) DO NOTHING", Statement.RETURN_GENERATED_KEYS)) {
                for (int i = 0; i < 20; i++) {
                    s.setInt(1, 590 + i / 2);
                    s.setString(2, "n" + i);
                    s.addBatch();
                }
                say(s.executeLargeBatch());
                print(s.getGeneratedKeys());
            }
            try (PreparedStatement s = c.prepareStatement("UPDATE crm.orders SET status = ? WHERE id = ?")) {
                for (int i = 0; i < 30; i++) {
                    s.setString(1, "b" + i);
                    s.setLong(2, 70000 + i);
                    s.addBatch();
                }
                say(s.executeBatch());
            }
            try (PreparedStatement s = c.prepareStatement("INSERT INTO crm.orders (id, customer_id, total) VALUES (?, ?, ?)", new String[] {"id", "total"})) {
                for (int i = 0; i < 5; i++) {
                    s.setLong(1, 71000 + i);
                    s.setLong(2, 1);
                    s.setBigDecimal(3, new BigDecimal(2000));
                    s.addBatch();
                }
                say(s.executeBatch());
                print(s.getGeneratedKeys());
            }
            try (Statement s = c.createStatement()) {
                s.addBatch("UPDATE crm.notes SET note = 'one' WHERE id = 1");
                s.addBatch("DELETE FROM crm.orders WHERE id >= 71000");
                s.addBatch("UPDATE crm.customers SET grade = 'batch' WHERE id < 9");
                say(s.executeBatch());
                say(print(s.executeQuery("SELECT id, item, total, status FROM crm.orders WHERE id >= 70000 ORDER BY id")));
                s.executeUpdate("DELETE FROM crm.orders WHERE id >= 70000");
                s.executeUpdate("DELETE FROM crm.notes WHERE id >= 500");
                if (!auto) {
                    c.commit();
                }
                s.addBatch("UPDATE crm.notes SET note = 'two' WHERE id = 1");
                s.addBatch("INSERT INTO crm.notes (id) VALUES (1)");
                s.addBatch("UPDATE crm.notes SET note = 'three' WHERE id = 1");
                try {
                    s.executeBatch();
                } catch (BatchUpdateException e) {
                    say("batch stops", e.getSQLState(), e.getUpdateCounts());
                }
                if (!auto) {
                    c.rollback();
                }
                say(print(s.executeQuery("SELECT * FROM crm.notes WHERE id = 1")));
            }
            if (!auto) {
                c.commit();
            }
        }
    }

    static void keys(Connection c) throws Exception {
        c.setAutoCommit(false);
        try (PreparedStatement s = c.prepareStatement("INSERT INTO crm.orders (id, customer_id, item, total) VALUES (?, 1, 'k', 2000)", Statement.RETURN_GENERATED_KEYS)) {
            for (int i = 0; i < 7; i++) {
                s.setLong(1, 72000 + i);
                say(s.executeUpdate(), print(s.getGeneratedKeys()));
            }
        }
        try (Statement s = c.createStatement()) {
            say(s.executeUpdate("INSERT INTO crm.orders (id, customer_id, item, total) VALUES (73000, 1, 'k', 2000), (73001, 2, 'k', 3000)", new String[] {"id", "item", "total"}), print(s.getGeneratedKeys()));
            say(s.executeUpdate("UPDATE crm.customers SET grade = 'x' WHERE id IN (1, 2)", Statement.RETURN_GENERATED_KEYS), print(s.getGeneratedKeys()));
            say(s.executeUpdate("DELETE FROM crm.customers WHERE id = 2", new String[] {"id", "name", "phone"}), print(s.getGeneratedKeys()));
            say(s.execute("INSERT INTO crm.products VALUES (900, 'p', 1) RETURNING *"), print(s.getResultSet()));
            s.execute("CREATE TEMP TABLE counted (id bigint GENERATED ALWAYS AS IDENTITY, v text)");
            say(s.executeUpdate("INSERT INTO counted (v) VALUES ('a'), ('b')", Statement.RETURN_GENERATED_KEYS), print(s.getGeneratedKeys()));
        }
        c.rollback();
    }

    static void copy(Connection c) throws Exception {
        CopyManager copies = c.unwrap(PGConnection.class).getCopyAPI();
        for (String sql : new String[] {
            "COPY (SELECT * FROM crm.customers ORDER BY id) TO STDOUT",
            "COPY (SELECT id, name, phone FROM crm.customers ORDER BY id) TO STDOUT (FORMAT csv, HEADER)",
            "COPY (SELECT id, total FROM crm.orders WHERE id < 30 ORDER BY id) TO STDOUT WITH CSV DELIMITER ';' FORCE QUOTE *",
            "COPY crm.products TO STDOUT",
        }) {
            StringWriter out = new StringWriter();
            say(sql, copies.copyOut(sql, out), out.toString());
        }
        ByteArrayOutputStream bytes = new ByteArrayOutputStream();
        copies.copyOut("COPY (SELECT id, name, birth FROM crm.customers ORDER BY id) TO STDOUT (FORMAT binary)", bytes);
        say(HexFormat.of().formatHex(bytes.toByteArray()));
        try (PGCopyInputStream in = new PGCopyInputStream(c.unwrap(PGConnection.class), "COPY (SELECT id, phone FROM crm.customers ORDER BY id) TO STDOUT")) {
            say(new String(in.readAllBytes(), StandardCharsets.UTF_8));
        }
        say(copies.copyIn("COPY crm.notes (id, customer_id, note) FROM STDIN", new StringReader("600\t1\tcopied\n601\t2\t\\N\n")));
        say(copies.copyIn("COPY crm.orders (id, customer_id, item, total) FROM STDIN (FORMAT csv, HEADER true)",
            new ByteArrayInputStream("id,c,i,t\n74000,1,\"a, b\",1000\n74001,2,,2000\n".getBytes(StandardCharsets.UTF_8))));
        try (PGCopyOutputStream out = new PGCopyOutputStream(c.unwrap(PGConnection.class), "COPY crm.notes (id, note) FROM STDIN", 64)) {
            for (int i = 602; i < 640; i++) {
                out.write((i + "\tline " + i + "\n").getBytes(StandardCharsets.UTF_8));
            }
        }
        CopyIn in = copies.copyIn("COPY crm.notes (id) FROM STDIN");
        in.writeToCopy("700\n".getBytes(StandardCharsets.UTF_8), 0, 4);
        in.cancelCopy();
        fails(d -> copies.copyIn("COPY crm.notes (id) FROM STDIN", new StringReader("not a number\n")), c);
        fails(d -> copies.copyIn("COPY crm.notes (id) FROM STDIN", new StringReader("1\n")), c);
        fails(d -> copies.copyOut("COPY crm.nothing TO STDOUT", new StringWriter()), c);
        try (Statement s = c.createStatement()) {
            say(print(s.executeQuery("SELECT * FROM crm.notes WHERE id >= 600 ORDER BY id")));
            say(print(s.executeQuery("SELECT id, item, total FROM crm.orders WHERE id >= 74000 ORDER BY id")));
            say(s.executeUpdate("DELETE FROM crm.notes WHERE id >= 600"), s.executeUpdate("DELETE FROM crm.orders WHERE id >= 74000"));
        }
    }

    static void cancel(Connection c) throws Exception {
        try (Statement s = c.createStatement()) {
            Thread other = new Thread(() -> {
                try {
                    Thread.sleep(300);
                    s.cancel();
                } catch (Exception e) {
                    System.out.println("!! cancel: " + e);
                }
            });
            other.start();
            fails(d -> s.execute("SELECT pg_sleep(20), count(*) FROM crm.customers"), c);
            other.join();
            say(print(s.executeQuery("SELECT 1")));
            s.setQueryTimeout(1);
            fails(d -> s.execute("SELECT pg_sleep(20)"), c);
            say(print(s.executeQuery("SELECT name FROM crm.customers WHERE id = 1")));
        }
        c.unwrap(PGConnection.class).cancelQuery();
    }

    static void transactions(Connection c) throws Exception {
        c.setAutoCommit(false);
        try (Statement s = c.createStatement()) {
            s.executeUpdate("UPDATE crm.customers SET grade = 'one' WHERE id = 1");
            Savepoint a = c.setSavepoint(), b = c.setSavepoint("With \"quotes\"");
            s.executeUpdate("UPDATE crm.customers SET grade = 'two' WHERE id = 1");
            c.rollback(b);
            say(print(s.executeQuery("SELECT grade FROM crm.customers WHERE id = 1")));
            fails(d -> s.execute("SELECT 1 / 0"), c);
            fails(d -> s.execute("SELECT 1"), c);
            c.rollback(a);
            c.releaseSavepoint(a);
            c.rollback();
            say(print(s.executeQuery("SELECT grade FROM crm.customers WHERE id = 1")));
            c.commit();
            for (int level : new int[] {Connection.TRANSACTION_READ_UNCOMMITTED, Connection.TRANSACTION_READ_COMMITTED,
                Connection.TRANSACTION_REPEATABLE_READ, Connection.TRANSACTION_SERIALIZABLE}) {
                c.setTransactionIsolation(level);
                say(c.getTransactionIsolation(), print(s.executeQuery("SELECT count(*) FROM crm.customers")));
                c.commit();
            }
            c.setReadOnly(true);
            fails(d -> s.executeUpdate("UPDATE crm.notes SET note = 'x'"), c);
            c.rollback();
            say(print(s.executeQuery("SELECT phone FROM crm.customers ORDER BY id LIMIT 1")));
            c.commit();
            c.setReadOnly(false);
            c.setAutoCommit(true);
            say(s.executeUpdate("UPDATE crm.notes SET note = 'x' WHERE id = 1"));
        }
    }

    static void autosave(Connection c) throws Exception {
        c.setAutoCommit(false);
        try (Statement s = c.createStatement(); PreparedStatement p = c.prepareStatement("SELECT name FROM crm.customers WHERE id = ?")) {
            for (int i = 0; i < 8; i++) {
                p.setLong(1, 1);
                fails(d -> say(print(p.executeQuery())), c);
                fails(d -> s.execute("SELECT 1 / 0"), c);
            }
            fails(d -> say(print(s.executeQuery("SELECT 1"))), c);
        }
        c.rollback();
    }

    static void updatable(Connection c) throws Exception {
        c.setAutoCommit(false);
        for (String sql : new String[] {
            "SELECT id, name, price FROM crm.products WHERE id < 4 ORDER BY id",
            "SELECT * FROM crm.notes WHERE id < 4 ORDER BY id",
        }) {
            try (Statement s = c.createStatement(ResultSet.TYPE_SCROLL_INSENSITIVE, ResultSet.CONCUR_UPDATABLE)) {
                ResultSet r = s.executeQuery(sql);
                r.next();
                r.next();
                r.updateString(sql.contains("notes") ? "note" : "name", "changed");
                r.updateRow();
                r.refreshRow();
                say(r.getObject(1), r.getObject(2), r.getObject(3));
                r.moveToInsertRow();
                r.updateInt("id", 950);
                r.updateString(sql.contains("notes") ? "note" : "name", "inserted");
                r.insertRow();
                r.moveToCurrentRow();
                r.deleteRow();
                say(print(s.executeQuery(sql.replace("WHERE id < 4", "WHERE id < 4 OR id = 950"))));
            }
        }
        // On a protected table, what may be written.
        try (Statement s = c.createStatement(ResultSet.TYPE_SCROLL_SENSITIVE, ResultSet.CONCUR_UPDATABLE)) {
            ResultSet r = s.executeQuery("SELECT id, name, phone, grade FROM crm.customers WHERE id < 9 ORDER BY id");
            r.next();
            r.updateString("grade", "updated");
            r.updateRow();
            r.refreshRow();
            say(r.getObject(1), r.getObject(2), r.getObject(3), r.getObject(4));
        }
        c.rollback();
    }

    static void types(Connection c) throws Exception {
        try (PreparedStatement s = c.prepareStatement("SELECT ?::int4, ?::int8, ?::int2, ?::numeric, ?::float4, ?::float8, ?::bool, ?::text, ?::bytea, ?::date, ?::timestamptz, ?::timestamp, ?::time, ?::uuid, ?::jsonb, ?::text[], ?::int4[], ?::interval, ?::inet, phone, birth, created_at FROM crm.customers WHERE id = ?")) {
            for (int round = 0; round < 7; round++) {
                PGobject json = new PGobject(), interval = new PGobject(), inet = new PGobject();
                json.setType("jsonb");
                json.setValue("{\"a\": [1, null], \"张\": \"伟\"}");
                interval.setType("interval");
                interval.setValue("1 year 2 days 03:04:05.6");
                inet.setType("inet");
                inet.setValue("10.0.0.1/8");
                int i = 1;
                s.setInt(i++, -1);
                s.setLong(i++, Long.MAX_VALUE);
                s.setShort(i++, (short) 7);
                s.setBigDecimal(i++, new BigDecimal("-12345678901234567890.0123456789"));
                s.setFloat(i++, 1.1f);
                s.setDouble(i++, Math.PI);
                s.setBoolean(i++, true);
                s.setString(i++, "it's \\ 'q' ¿张伟?");
                if (c.unwrap(PGConnection.class).getPreferQueryMode() == PreferQueryMode.SIMPLE) {
                    // The driver writes no bytes into a text.
                    s.setObject(i++, "\\x0001ff275c", Types.OTHER);
                } else {
                    s.setBytes(i++, new byte[] {0, 1, -1, 39, 92});
                }
                s.setObject(i++, LocalDate.of(2024, 2, 29));
                s.setObject(i++, OffsetDateTime.of(2024, 2, 29, 1, 2, 3, 456_789_000, ZoneOffset.ofHours(8)));
                s.setTimestamp(i++, Timestamp.valueOf("1999-12-31 23:59:59.999999"));
                s.setTime(i++, java.sql.Time.valueOf("12:34:56"));
                s.setObject(i++, "00112233-4455-6677-8899-aabbccddeeff", Types.OTHER);
                s.setObject(i++, json);
                s.setArray(i++, c.createArrayOf("text", new String[] {"a", null, "b,\"c\\"}));
                s.setArray(i++, c.createArrayOf("int4", new Integer[] {1, null, 3}));
                s.setObject(i++, interval);
                s.setObject(i++, inet);
                s.setLong(i++, 1 + round);
                ResultSet r = s.executeQuery();
                say(print(r));
            }
            ResultSet r = s.executeQuery();
            while (r.next()) {
                say(r.getObject("birth", LocalDate.class), r.getObject("created_at", OffsetDateTime.class).toInstant(),
                    r.getTimestamp("created_at", Calendar.getInstance(TimeZone.getTimeZone("UTC"))).getTime(), r.getDate("birth").getTime());
            }
        }
        try (Statement s = c.createStatement()) {
            say(print(s.executeQuery("SELECT to_jsonb(c) FROM crm.customers c ORDER BY id LIMIT 3")));
            say(print(s.executeQuery("SELECT array_agg(phone ORDER BY id), array_agg(birth ORDER BY id), array_agg(id ORDER BY id) FROM crm.customers WHERE id < 8")));
            say(print(s.executeQuery("SELECT (array_agg(name ORDER BY id))[2:3] FROM crm.customers WHERE id < 8")));
            say(print(s.executeQuery("SELECT jsonb_agg(jsonb_build_object('p', phone) ORDER BY id) ->> 0 FROM crm.customers WHERE id < 3")));
            say(print(s.executeQuery("SELECT '(1,2)'::point, '<a/>'::xml, B'101', 'a => 1'::text, 12.5::money, '{[1,3)}'::int4multirange, ROW(1, 'a')")));
            ResultSet r = s.executeQuery("SELECT ARRAY[[1, 2], [3, 4]], array_agg(phone ORDER BY id) FROM crm.customers WHERE id < 4");
            r.next();
            say(print(r.getArray(2).getResultSet()), r.getArray(1).getBaseType());
        }
        try (PreparedStatement s = c.prepareStatement("SELECT id FROM crm.customers WHERE created_at BETWEEN ? AND ? AND birth > ? AND grade = ANY (?) ORDER BY id")) {
            s.setTimestamp(1, Timestamp.valueOf("2024-01-01 00:00:00"));
            s.setObject(2, OffsetDateTime.of(2024, 1, 2, 0, 0, 0, 0, ZoneOffset.UTC));
            s.setDate(3, Date.valueOf("1960-01-01"));
            s.setArray(4, c.createArrayOf("varchar", new String[] {"vip", "重点"}));
            say(print(s.executeQuery()));
        }
    }

    static void calls(Connection c) throws Exception {
        try (CallableStatement s = c.prepareCall("{? = call lower(?)}")) {
            s.registerOutParameter(1, Types.VARCHAR);
            s.setString(2, "ABC");
            s.execute();
            say(s.getString(1));
        }
        try (CallableStatement s = c.prepareCall("{? = call pg_catalog.round(?, ?)}")) {
            s.registerOutParameter(1, Types.NUMERIC);
            s.setBigDecimal(2, new BigDecimal("2.345"));
            s.setInt(3, 1);
            s.execute();
            say(s.getBigDecimal(1));
        }
        try (Statement s = c.createStatement()) {
            say(print(s.executeQuery("SELECT {fn ucase(name)}, {fn length(phone)}, {fn concat(grade, city)}, {fn left(phone, 3)}, {fn year(birth)} FROM crm.customers WHERE birth > {d '1950-01-01'} AND created_at > {ts '2024-01-01 00:00:00'} ORDER BY id LIMIT 3")));
            say(print(s.executeQuery("SELECT c.name, o.total FROM {oj crm.customers c LEFT OUTER JOIN crm.orders o ON o.customer_id = c.id} WHERE c.name LIKE '%!*%' {escape '!'} ORDER BY o.id LIMIT 3")));
            say(print(s.executeQuery("SELECT {fn timestampdiff(SQL_TSI_DAY, {ts '2024-01-01 00:00:00'}, {ts '2024-02-01 00:00:00'})}, {fn mod(7, 3)}, {fn ifnull(NULL, 'x')}, {fn database()} = current_database()")));
            s.setEscapeProcessing(false);
            say(print(s.executeQuery("SELECT '{\"a\": 1}'::jsonb ?? 'a'".replace("??", "?"))));
        }
        try (PreparedStatement s = c.prepareStatement("SELECT '{\"a\": 1}'::jsonb ?? 'a', to_jsonb(c) ??| ARRAY['phone', ?] FROM crm.customers c WHERE id = 1")) {
            s.setString(1, "x");
            say(print(s.executeQuery()));
        }
    }

    static void session(Connection c) throws Exception {
        say(c.isValid(3), c.getSchema(), c.getCatalog().equals(database), c.getClientInfo("ApplicationName"));
        try (Statement s = c.createStatement()) {
            say(print(s.executeQuery("SELECT name, phone FROM customers ORDER BY id LIMIT 2")));
            c.setSchema("public");
            fails(d -> s.executeQuery("SELECT name FROM customers"), c);
            c.setSchema("crm");
            say(c.getSchema(), print(s.executeQuery("SELECT name FROM customers ORDER BY id LIMIT 1")));
            c.setClientInfo("ApplicationName", "other");
            say(print(s.executeQuery("SHOW application_name")), print(s.executeQuery("SHOW timezone")), print(s.executeQuery("SHOW extra_float_digits")));
            s.execute("SET TIME ZONE 'UTC'");
            say(print(s.executeQuery("SELECT created_at::text FROM customers ORDER BY id LIMIT 1")));
            s.execute("LISTEN shop");
            s.execute("NOTIFY shop, 'word'");
            PGNotification[] heard = c.unwrap(PGConnection.class).getNotifications(5000);
            say(heard.length, heard[0].getName(), heard[0].getParameter());
            s.execute("UNLISTEN *");
            s.execute("DROP TABLE IF EXISTS never_made");
            say(s.getWarnings().getSQLState(), s.getWarnings().getMessage());
            c.setReadOnly(true);
            fails(d -> s.executeUpdate("UPDATE crm.notes SET note = 'x'"), c);
            c.setReadOnly(false);
            say(c.unwrap(PGConnection.class).getParameterStatus("server_version"), c.unwrap(PGConnection.class).getParameterStatus("TimeZone"),
                c.unwrap(PGConnection.class).getParameterStatus("standard_conforming_strings"));
            s.execute("DISCARD ALL");
            say(print(s.executeQuery("SELECT count(*) FROM crm.products")));
        }
        c.abort(Runnable::run);
        say(c.isClosed());
    }

    static void columns(Connection c) throws Exception {
        for (String sql : QUERIES) {
            try (PreparedStatement s = c.prepareStatement(sql)) {
                columns(s.getMetaData());
                ResultSet r = s.executeQuery();
                columns(r.getMetaData());
            }
        }
    }

    static void columns(ResultSetMetaData m) throws SQLException {
        for (int i = 1; i <= m.getColumnCount(); i++) {
            say(m.getColumnLabel(i), m.getColumnName(i), m.getSchemaName(i), m.getTableName(i), m.getColumnTypeName(i), m.getColumnType(i),
                m.getColumnClassName(i), m.getPrecision(i), m.getScale(i), m.getColumnDisplaySize(i), m.isNullable(i), m.isAutoIncrement(i),
                m.isCaseSensitive(i), m.isCurrency(i), m.isSigned(i), m.isSearchable(i), m.isWritable(i), m.isReadOnly(i));
        }
    }

    /** Arguments for every method of DatabaseMetaData that has any and asks the database. */
    static final Map<String, Object[][]> ASKED = new TreeMap<>(Map.ofEntries(
        Map.entry("getAttributes", new Object[][] {{null, null, "%", "%"}}),
        Map.entry("getBestRowIdentifier", new Object[][] {{null, "crm", "customers", DatabaseMetaData.bestRowSession, true}}),
        Map.entry("getColumnPrivileges", new Object[][] {{null, "crm", "customers", "%"}, {null, "crm", "products", "%"}}),
        Map.entry("getColumns", new Object[][] {{null, "crm", "%", "%"}, {null, null, "%", "%"}, {null, "crm", "customers", "ph%"}}),
        Map.entry("getCrossReference", new Object[][] {{null, "crm", "customers", null, "crm", "orders"}}),
        Map.entry("getExportedKeys", new Object[][] {{null, "crm", "customers"}, {null, null, null}}),
        Map.entry("getFunctionColumns", new Object[][] {{null, "pg_catalog", "l%", "%"}, {null, null, "%", "%"}}),
        Map.entry("getFunctions", new Object[][] {{null, null, "%"}, {null, "crm", "%"}}),
        Map.entry("getImportedKeys", new Object[][] {{null, "crm", "orders"}, {null, null, null}}),
        Map.entry("getIndexInfo", new Object[][] {{null, "crm", "customers", true, false}, {null, "crm", "orders", false, true}}),
        Map.entry("getPrimaryKeys", new Object[][] {{null, "crm", "customers"}, {null, null, null}}),
        Map.entry("getProcedureColumns", new Object[][] {{null, null, "%", "%"}}),
        Map.entry("getProcedures", new Object[][] {{null, null, "%"}}),
        Map.entry("getPseudoColumns", new Object[][] {{null, "crm", "%", "%"}}),
        Map.entry("getSchemas", new Object[][] {{}, {null, "c%"}}),
        Map.entry("getSuperTables", new Object[][] {{null, "crm", "%"}}),
        Map.entry("getSuperTypes", new Object[][] {{null, "crm", "%"}}),
        Map.entry("getTablePrivileges", new Object[][] {{null, "crm", "%"}, {null, null, "pg_class"}}),
        Map.entry("getTables", new Object[][] {{null, null, "%", null}, {null, "crm", "%", new String[] {"TABLE", "VIEW"}}, {null, null, "pg_%", new String[] {"SYSTEM TABLE"}}}),
        Map.entry("getUDTs", new Object[][] {{null, null, "%", null}}),
        Map.entry("getVersionColumns", new Object[][] {{null, "crm", "customers"}})));

    static void metadata(Connection c) throws Exception {
        DatabaseMetaData about = c.getMetaData();
        Method[] methods = DatabaseMetaData.class.getMethods();
        Arrays.sort(methods, java.util.Comparator.comparing(Method::toString));
        for (Method method : methods) {
            String name = method.getName();
            Object[][] asked = ASKED.getOrDefault(name, method.getParameterCount() == 0 ? new Object[][] {{}} : new Object[0][]);
            for (Object[] arguments : asked) {
                if (arguments.length != method.getParameterCount() || name.equals("getURL") || name.equals("getConnection")) {
                    continue;
                }
                try {
                    Object answer = method.invoke(about, arguments);
                    if (name.equals("getCatalogs")) {
                        // Other databases come and go.
                        boolean found = false;
                        for (ResultSet r = (ResultSet) answer; r.next();) {
                            found |= r.getString(1).equals(database);
                        }
                        say(name, found);
                    } else if (answer instanceof ResultSet r) {
                        columns(r.getMetaData());
                        // Pages and estimates of rows depend on when autovacuum was here.
                        say(name, arguments, print(r, name.equals("getIndexInfo") ? Set.of("CARDINALITY", "PAGES") : Set.of()));
                    } else {
                        say(name, answer);
                    }
                } catch (InvocationTargetException e) {
                    say(name, e.getCause() instanceof java.sql.SQLFeatureNotSupportedException ? "is not implemented" : "!! " + e.getCause());
                }
            }
        }
    }
}
