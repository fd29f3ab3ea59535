-- Objects that the attacks of attacks.toml use: functions, views, partitions, children, domains, triggers, rules, generated columns.
CREATE FUNCTION peek_phone(n bigint) RETURNS text LANGUAGE sql SECURITY DEFINER AS 'SELECT phone FROM crm.customers WHERE id = n';
CREATE FUNCTION peek_dynamic(n bigint) RETURNS text LANGUAGE plpgsql SECURITY DEFINER AS
    $$ DECLARE r text; BEGIN EXECUTE 'SELECT ph' || 'one FROM crm.cust' || 'omers WHERE id = ' || n INTO r; RETURN r; END $$;
CREATE FUNCTION peek_twice(n bigint) RETURNS text LANGUAGE sql AS 'SELECT peek_phone(n)';
CREATE FUNCTION peek_atomic(n bigint) RETURNS text LANGUAGE sql BEGIN ATOMIC SELECT phone FROM crm.customers WHERE id = n; END;
CREATE FUNCTION peek_through_view(n bigint) RETURNS text LANGUAGE sql AS 'SELECT tel FROM crm.v_contacts WHERE id = n';
CREATE FUNCTION peek_refcursor() RETURNS refcursor LANGUAGE plpgsql SECURITY DEFINER AS
    $$ DECLARE c refcursor := 'peeked'; BEGIN OPEN c FOR SELECT phone FROM crm.customers; RETURN c; END $$;
CREATE FUNCTION peek_product(p crm.products) RETURNS text LANGUAGE sql AS 'SELECT phone FROM crm.customers WHERE id = p.id';
CREATE FUNCTION peek_rows() RETURNS SETOF crm.customers LANGUAGE sql SECURITY DEFINER AS 'TABLE crm.customers';
CREATE PROCEDURE peek_call() LANGUAGE plpgsql AS $$ DECLARE t text; BEGIN SELECT phone INTO t FROM crm.customers LIMIT 1; RAISE NOTICE '%', t; END $$;
CREATE FUNCTION peek_less(a text, b text) RETURNS boolean LANGUAGE sql AS 'SELECT a < (SELECT phone FROM crm.customers LIMIT 1)';
CREATE OPERATOR public.<<<< (LEFTARG = text, RIGHTARG = text, FUNCTION = peek_less);
CREATE FUNCTION peek_sum(text, bigint) RETURNS text LANGUAGE sql AS 'SELECT peek_phone($2)';
CREATE AGGREGATE peek_all (bigint) (SFUNC = peek_sum, STYPE = text);
CREATE DOMAIN peeked AS text CHECK (length(peek_phone(1)) > 0 AND value IS NOT NULL);
CREATE FUNCTION loud(t text) RETURNS boolean LANGUAGE plpgsql COST 0.0001 AS $$ BEGIN RAISE NOTICE 'seen %', t; RETURN true; END $$;
CREATE FUNCTION harmless(t text) RETURNS text LANGUAGE sql AS 'SELECT upper(t)';

CREATE TABLE crm.visits (id int, customer_id bigint, place text, day date) PARTITION BY RANGE (day);
CREATE TABLE crm.visits_2025 PARTITION OF crm.visits FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
CREATE TABLE crm.visits_2026 PARTITION OF crm.visits FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
INSERT INTO crm.visits SELECT id, id, address, date '2025-06-01' + id::int FROM crm.customers WHERE grade <> 'vip+';
CREATE TABLE crm.people (customer_id bigint, phone text);
CREATE TABLE crm.staff (desk text) INHERITS (crm.people);
INSERT INTO crm.staff SELECT id, phone, 'desk ' || id FROM crm.customers WHERE grade <> 'vip+';
CREATE DOMAIN crm.phone_number AS text CHECK (length(value) < 40);
CREATE TABLE crm.cards (id int PRIMARY KEY, customer_id bigint, phone crm.phone_number, loud_phone text GENERATED ALWAYS AS (upper(phone)) STORED,
    phones text[], extra jsonb);
INSERT INTO crm.cards (id, customer_id, phone, phones, extra)
    SELECT id, id, phone, ARRAY[phone, email], jsonb_build_object('phone', phone) FROM crm.customers WHERE grade <> 'vip+';
CREATE MATERIALIZED VIEW crm.m_contacts AS SELECT id, phone AS tel, city FROM crm.customers;
CREATE VIEW crm.v_barrier WITH (security_barrier) AS SELECT id, phone, grade FROM crm.customers WHERE grade <> 'vip+';
CREATE VIEW crm.v_expression AS SELECT id, upper(name) || phone AS both FROM crm.customers;
CREATE VIEW crm.v_updatable AS SELECT id, phone, city FROM crm.customers WHERE id < 100 WITH CHECK OPTION;
CREATE VIEW crm.v_aggregate AS SELECT city, string_agg(phone, ',') AS phones, count(*) AS n FROM crm.customers GROUP BY city;

CREATE TABLE crm.inbox (id int PRIMARY KEY, note text);
CREATE FUNCTION fill_note() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS
    $$ BEGIN NEW.note := (SELECT phone FROM crm.customers WHERE id = NEW.id); RETURN NEW; END $$;
CREATE TRIGGER fill BEFORE INSERT OR UPDATE ON crm.inbox FOR EACH ROW EXECUTE FUNCTION fill_note();
CREATE TABLE crm.ruled (id int, note text);
CREATE RULE also AS ON INSERT TO crm.ruled DO ALSO SELECT phone FROM crm.customers;
CREATE TABLE crm.defaulted (id int, note text DEFAULT peek_phone(1));
CREATE TABLE crm.checked (id int, note text CHECK (note < peek_phone(1)));
CREATE TABLE crm.indexed (id int, note text);
-- Code that reaches protected relations, behind something that does not name it.
CREATE VIEW crm.v_of_function AS SELECT id, peek_phone(id) AS phone FROM crm.products WHERE id > 0;
CREATE VIEW crm.v_of_view AS SELECT phone FROM crm.v_of_function;
CREATE FUNCTION peek_default(t text DEFAULT peek_phone(1)) RETURNS text LANGUAGE sql AS 'SELECT t';
CREATE FUNCTION write_inbox() RETURNS text LANGUAGE plpgsql AS
    $$ DECLARE t text; BEGIN INSERT INTO crm.inbox VALUES (7001) RETURNING note INTO t; RETURN t; END $$;
CREATE FUNCTION read_view() RETURNS text LANGUAGE sql AS 'SELECT max(phone) FROM crm.v_of_view';
CREATE FUNCTION by_operator(t text) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN RETURN t <<<< t; END';
CREATE FUNCTION by_domain(t text) RETURNS text LANGUAGE plpgsql AS 'DECLARE d peeked := t; BEGIN RETURN d; END';
CREATE VIEW crm.v_statistics AS SELECT tablename, most_common_vals::text AS v, histogram_bounds::text AS h FROM pg_stats;
CREATE VIEW crm.v_sessions AS SELECT query FROM pg_stat_activity;
CREATE VIEW crm.v_text AS SELECT query_to_xml('SELECT phone FROM crm.cust' || 'omers', true, true, '') AS x;
CREATE FUNCTION public."z""z"() RETURNS text LANGUAGE sql AS 'SELECT phone FROM crm.customers LIMIT 1';
CREATE FUNCTION doubled() RETURNS text LANGUAGE sql AS 'SELECT public."z""z"()';
CREATE FUNCTION public.aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa() RETURNS text LANGUAGE sql
    AS 'SELECT phone FROM crm.customers LIMIT 1';
CREATE FUNCTION too_long() RETURNS text LANGUAGE sql
    AS 'SELECT public.aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaabbb()';
CREATE FUNCTION public.current_setting(n int) RETURNS text LANGUAGE sql AS 'SELECT phone FROM crm.customers WHERE id = n';
CREATE FUNCTION read_otherwise() RETURNS text LANGUAGE plpgsql SET standard_conforming_strings = off AS
    $$ DECLARE x text; BEGIN x := '\' -- ' || (SELECT phone FROM crm.customers LIMIT 1);
 RETURN x
; RETURN x; END $$;
CREATE FUNCTION peek_int(i int) RETURNS text LANGUAGE sql AS 'SELECT phone FROM crm.customers WHERE id = i';
CREATE TYPE odd AS (x text);
CREATE FUNCTION odd_equal(a odd, b odd) RETURNS boolean LANGUAGE plpgsql AS
    $$ BEGIN RAISE NOTICE '%', (SELECT phone FROM crm.customers LIMIT 1); RETURN true; END $$;
CREATE OPERATOR public.= (LEFTARG = odd, RIGHTARG = odd, FUNCTION = odd_equal);
CREATE OPERATOR public.>= (LEFTARG = odd, RIGHTARG = odd, FUNCTION = odd_equal);
CREATE FUNCTION to_odd(int) RETURNS odd LANGUAGE sql AS 'SELECT ROW(phone)::odd FROM crm.customers LIMIT 1';
CREATE CAST (int AS odd) WITH FUNCTION to_odd(int) AS ASSIGNMENT;
CREATE TABLE crm.odds (m odd);
INSERT INTO crm.odds VALUES (ROW('a')::odd);
CREATE TABLE crm.rule_to_trigger (id int);
CREATE RULE r AS ON INSERT TO crm.rule_to_trigger DO ALSO INSERT INTO crm.inbox VALUES (NEW.id);
CREATE FUNCTION peek_text() RETURNS text LANGUAGE sql AS 'SELECT peek_phone(1)';
CREATE DOMAIN filled AS text DEFAULT peek_text();
CREATE TABLE crm.filled_rows (id int, note filled);
CREATE SCHEMA elsewhere;
CREATE FUNCTION elsewhere.peek_phone(n bigint) RETURNS text LANGUAGE sql AS 'SELECT public.peek_phone(n)';
GRANT USAGE ON SCHEMA elsewhere TO PUBLIC;
CREATE TABLE crm.typed (note peeked);
CREATE TABLE crm.upper_rows (id int PRIMARY KEY);
CREATE TABLE crm.lower_rows (id int REFERENCES crm.upper_rows ON DELETE CASCADE);
INSERT INTO crm.upper_rows VALUES (1);
INSERT INTO crm.lower_rows VALUES (1);
CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN INSERT INTO crm.ruled VALUES (1, (SELECT phone FROM crm.customers LIMIT 1)); RETURN OLD; END $$;
CREATE TRIGGER tell BEFORE DELETE ON crm.lower_rows FOR EACH ROW EXECUTE FUNCTION tell();
GRANT ALL ON ALL TABLES IN SCHEMA crm TO PUBLIC;
GRANT CREATE ON SCHEMA public TO PUBLIC;
SELECT lo_from_bytea(4711, convert_to(phone, 'UTF8')) FROM crm.customers LIMIT 1;
ANALYZE;
CREATE FUNCTION writes_note(a text, b text) RETURNS boolean LANGUAGE plpgsql AS
    $$ BEGIN INSERT INTO crm.notes (id, note) VALUES (8000, a); RETURN true; END $$;
