-- What statements of counts.toml use besides the demo's shop.
CREATE TABLE crm.inbox (id bigint PRIMARY KEY, customer_id bigint, body text);
INSERT INTO crm.inbox SELECT id, NULL, body FROM crm.messages;
CREATE VIEW crm.v_lag AS SELECT id, name, lag(phone) OVER (ORDER BY id) AS phone FROM crm.customers;
CREATE VIEW crm.v_all AS SELECT id, string_agg(phone, ',') OVER () AS phones FROM crm.customers;
CREATE VIEW crm.v_sub AS SELECT c.id, (SELECT string_agg(d.phone, ',') FROM crm.customers d) AS phones FROM crm.customers c;
CREATE VIEW crm.v_pair AS SELECT a.id, a.phone AS one, b.phone AS two FROM crm.customers a JOIN crm.customers b ON b.id = a.id + 1;
CREATE VIEW crm.v_both AS SELECT a.id, a.phone || b.phone AS both FROM crm.customers a JOIN crm.customers b ON b.id = a.id + 1;
CREATE VIEW crm.v_grouped AS SELECT min(id) AS id, grade, string_agg(phone, ',') AS phones FROM crm.customers GROUP BY grade;
CREATE VIEW crm.v_chain AS WITH RECURSIVE r AS (SELECT id, phone FROM crm.customers WHERE id = 1
    UNION ALL SELECT c.id, r.phone || c.phone FROM r JOIN crm.customers c ON c.id = r.id + 1 WHERE c.id < 30) SELECT id, phone FROM r;
CREATE VIEW crm.v_outer AS SELECT a.id, b.phone FROM crm.customers b LEFT JOIN crm.customers a ON a.id = b.id + 1000;
GRANT ALL ON ALL TABLES IN SCHEMA crm TO PUBLIC;
CREATE FUNCTION crm.f_phones() RETURNS SETOF text LANGUAGE sql STABLE AS 'SELECT phone FROM crm.customers';
CREATE FUNCTION crm.f_all() RETURNS text LANGUAGE sql STABLE AS 'SELECT string_agg(phone, '','') FROM crm.customers';
CREATE FUNCTION crm.f_plpgsql() RETURNS text LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN (SELECT string_agg(phone, ',') FROM crm.customers); END $$;
CREATE FUNCTION crm.f_open(c refcursor) RETURNS refcursor LANGUAGE plpgsql AS $$ BEGIN OPEN c FOR SELECT phone FROM crm.customers; RETURN c; END $$;
CREATE FUNCTION crm.f_notice(t text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE '%', t; RETURN true; END $$;
CREATE FUNCTION crm.f_join(text, text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT $1 || $2';
CREATE AGGREGATE crm.a_join (text) (SFUNC = crm.f_join, STYPE = text, INITCOND = '');
