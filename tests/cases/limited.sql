-- What the statements of limited.toml meet besides the shop.
CREATE EXTENSION pg_trgm WITH SCHEMA public;
-- Names of a row filter that somebody has made anew.
CREATE FUNCTION public.lower(integer) RETURNS pg_catalog.text LANGUAGE sql IMMUTABLE AS 'SELECT ''x''::pg_catalog.text';
CREATE DOMAIN public.text AS pg_catalog.text;
CREATE FUNCTION public.more(a pg_catalog.text, b pg_catalog.text) RETURNS boolean LANGUAGE sql AS 'SELECT true';
CREATE OPERATOR public.> (leftarg = pg_catalog.text, rightarg = pg_catalog.text, function = public.more);
-- Functions that the policy trusts, and others.
CREATE FUNCTION public.vouched(pg_catalog.text) RETURNS pg_catalog.text LANGUAGE plpgsql AS $$ BEGIN EXECUTE $1; RETURN ''; END $$;
CREATE FUNCTION public.unvouched(pg_catalog.text) RETURNS pg_catalog.text LANGUAGE plpgsql AS $$ BEGIN EXECUTE $1; RETURN ''; END $$;
CREATE FUNCTION public.calls_vouched(pg_catalog.text) RETURNS pg_catalog.text LANGUAGE sql AS 'SELECT public.vouched($1)';
CREATE AGGREGATE public.counted(integer) (sfunc = int4pl, stype = integer, initcond = '0');
CREATE FUNCTION public.peeks(a integer, b integer) RETURNS integer LANGUAGE plpgsql AS
    $$ BEGIN RETURN (SELECT count(phone) FROM crm.customers); END $$;
CREATE AGGREGATE public.peeking(integer) (sfunc = public.peeks, stype = integer, initcond = '0');
-- An index that reads a protected relation whenever something is maintained.
CREATE TABLE crm.indexed (id integer, note pg_catalog.text);
CREATE FUNCTION public.looks(integer) RETURNS integer IMMUTABLE LANGUAGE plpgsql AS
    $$ BEGIN RETURN (SELECT count(phone) FROM crm.customers) + $1; END $$;
CREATE INDEX looked ON crm.indexed (public.looks(id));
-- Writing runs code that reads one.
CREATE TABLE crm.noted (id integer, note pg_catalog.text);
CREATE FUNCTION public.on_noted() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN NEW.note := (SELECT max(phone) FROM crm.customers); RETURN NEW; END $$;
CREATE TRIGGER on_noted BEFORE INSERT OR UPDATE ON crm.noted FOR EACH ROW EXECUTE FUNCTION public.on_noted();
CREATE VIEW crm.over_noted AS SELECT * FROM crm.noted;
-- Relations and functions of the server's own schemas that no list knows.
SET allow_system_table_mods = on;
CREATE TABLE pg_catalog.pg_newcomer (x pg_catalog.text);
CREATE VIEW pg_catalog.pg_stat_newcomer AS SELECT 1 AS x;
CREATE FUNCTION public.reads_newcomer() RETURNS pg_catalog.text LANGUAGE sql AS 'SELECT x FROM pg_newcomer';
CREATE FUNCTION public.reads_statistics() RETURNS pg_catalog.text LANGUAGE sql AS 'SELECT tablename FROM pg_stats LIMIT 1';
CREATE VIEW public.over_statistics AS SELECT tablename FROM pg_stats;
GRANT ALL ON ALL TABLES IN SCHEMA crm TO PUBLIC;
-- A schema that stands before the server's own in some paths, with what keeps the values that it is given.
CREATE SCHEMA own;
CREATE FUNCTION own.keeps(a pg_catalog.text, b pg_catalog.text) RETURNS boolean LANGUAGE plpgsql AS
    $$ BEGIN INSERT INTO crm.notes (id, note) VALUES (1, a); RETURN true; END $$;
CREATE OPERATOR own.= (leftarg = pg_catalog.text, rightarg = pg_catalog.text, function = own.keeps);
CREATE OPERATOR own.< (leftarg = pg_catalog.text, rightarg = pg_catalog.text, function = own.keeps);
CREATE OPERATOR own.>= (leftarg = pg_catalog.text, rightarg = pg_catalog.text, function = own.keeps);
CREATE FUNCTION own.keeps_by_operator(a pg_catalog.text) RETURNS boolean LANGUAGE plpgsql AS
    $$ BEGIN RETURN a OPERATOR(own.=) ''; END $$;
CREATE DOMAIN own.kept AS pg_catalog.text CHECK (own.keeps(VALUE, ''));
-- What changes settings.
CREATE FUNCTION own.flip() RETURNS boolean LANGUAGE sql AS $$ SELECT set_config('search_path', 'crm', false) IS NOT NULL $$;
CREATE FUNCTION own.flips(a integer, b integer) RETURNS boolean LANGUAGE sql AS $$ SELECT own.flip() $$;
CREATE OPERATOR own.### (leftarg = integer, rightarg = integer, function = own.flips);
CREATE DOMAIN own.flipping AS pg_catalog.text CHECK (own.flip());
CREATE FUNCTION own.takes(own.flipping) RETURNS integer LANGUAGE sql AS 'SELECT 1';
CREATE TABLE own.flipped (id integer DEFAULT 1 CHECK (own.flip()));
-- A protected name further down the path.
CREATE TABLE own.customers (id integer, phone pg_catalog.text);
-- Functions that stand for columns and for forms of newer servers.
CREATE FUNCTION public.secret(crm.customers) RETURNS pg_catalog.text LANGUAGE sql AS 'SELECT max(phone) FROM crm.customers';
CREATE FUNCTION public.secret(crm.notes) RETURNS pg_catalog.text LANGUAGE sql AS 'SELECT max(phone) FROM crm.customers';
CREATE TABLE crm.secrets (id integer, secret pg_catalog.text);
CREATE FUNCTION public.json_scalar(pg_catalog.text) RETURNS pg_catalog.text LANGUAGE sql AS 'SELECT max(phone) FROM crm.customers';
CREATE FUNCTION public.merge_action() RETURNS pg_catalog.text LANGUAGE sql AS 'SELECT max(phone) FROM crm.customers';
GRANT ALL ON SCHEMA own TO PUBLIC; GRANT ALL ON ALL TABLES IN SCHEMA own TO PUBLIC; GRANT ALL ON ALL TABLES IN SCHEMA crm TO PUBLIC;
-- Columns that nobody has classified, generated ones, children with rules of their own.
CREATE TABLE own.messages (id bigint, customer_id bigint, body pg_catalog.text);
CREATE TABLE crm.fresh (id bigint, customer_id bigint, known pg_catalog.text, newer pg_catalog.text,
    made pg_catalog.text GENERATED ALWAYS AS (upper(known)) STORED, shown pg_catalog.text GENERATED ALWAYS AS (upper(known)) STORED);
CREATE TABLE crm.fresh_child (more pg_catalog.text) INHERITS (crm.fresh);
-- Views of every shape.
CREATE VIEW crm.two AS SELECT a.name || b.name AS both_names, a.phone, b.email, a.id AS first, b.id AS second
    FROM crm.customers a JOIN crm.customers b ON a.id = b.id + 1;
CREATE VIEW crm.irregular AS SELECT c.*, r.* FROM crm.customers c, json_to_record('{}') AS r(x pg_catalog.text);
CREATE VIEW crm.grouped AS SELECT grade, max(phone) AS most, count(*) AS n FROM crm.customers GROUP BY grade;
CREATE VIEW crm.counted AS SELECT count(*) AS n FROM (SELECT id FROM crm.customers) s;
CREATE VIEW crm.cut AS SELECT id, name, grade FROM crm.customers ORDER BY id LIMIT 3;
CREATE VIEW crm.of_settings AS SELECT c.id, c.phone, p.relname FROM crm.customers c, pg_class p WHERE p.relname = 'pg_class';
CREATE VIEW crm.of_fresh AS SELECT id, known, newer, shown FROM crm.fresh;
CREATE VIEW crm.of_orders AS SELECT o.id, c.name, o.total FROM crm.orders o JOIN crm.customers c ON c.id = o.customer_id;
CREATE VIEW crm.unioned AS SELECT name FROM crm.customers UNION ALL SELECT body FROM crm.messages;
CREATE PROCEDURE public.proceeds() LANGUAGE sql AS 'SELECT 1';
CREATE PROCEDURE public.peeks_at() LANGUAGE sql AS 'SELECT phone FROM crm.customers';
CREATE TABLE crm.pg_settings (name pg_catalog.text, setting pg_catalog.text);
GRANT ALL ON ALL TABLES IN SCHEMA crm TO PUBLIC; GRANT ALL ON ALL TABLES IN SCHEMA own TO PUBLIC;
-- Built-ins under other names, and what shows the server's state.
CREATE FUNCTION own.renamed(pg_catalog.text, pg_catalog.text, boolean) RETURNS pg_catalog.text LANGUAGE internal AS 'set_config_by_name';
CREATE DOMAIN own.flipping_too AS pg_catalog.text CHECK (own.renamed('search_path', VALUE, false) IS NOT NULL);
CREATE FUNCTION own.notes_by_rule() RETURNS void LANGUAGE plpgsql AS $$ BEGIN NOTIFY x; END $$;
CREATE FUNCTION own.notifies(pg_catalog.text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN NOTIFY x; RETURN true; END $$;
CREATE FUNCTION own.shows_state() RETURNS pg_catalog.text LANGUAGE sql AS 'SELECT pg_stat_get_activity(1)::pg_catalog.text';
CREATE FUNCTION own.calls_state() RETURNS pg_catalog.text LANGUAGE sql AS 'SELECT own.shows_state()';
CREATE TYPE own.pair AS (a integer, b integer);

-- What the shapes of a query are told by: views whose rows are not those of their relation, people in a space of their own, a person's
-- column that is itself masked, names of window functions that somebody has made anew.
CREATE VIEW crm.windowed AS SELECT id, grade, phone, lag(phone) OVER (ORDER BY id) AS before FROM crm.customers;
CREATE VIEW crm.skipped AS SELECT id, grade, phone FROM crm.customers OFFSET 3;
CREATE VIEW crm.apart AS SELECT DISTINCT id, grade, phone FROM crm.customers;
CREATE VIEW crm.apart_on AS SELECT DISTINCT ON (grade) id, grade, phone FROM crm.customers;
CREATE VIEW crm.folded AS SELECT id, grade, phone FROM crm.customers GROUP BY id, grade, phone;
CREATE VIEW crm.kept_left AS SELECT c.id, c.grade, c.phone, n.note FROM crm.customers c LEFT JOIN crm.notes n ON n.id = c.id;
CREATE VIEW crm.maybe_left AS SELECT c.id, c.grade, c.phone, n.note FROM crm.notes n LEFT JOIN crm.customers c ON n.id = c.id;
CREATE VIEW crm.maybe_right AS SELECT c.id, c.grade, c.phone, n.note FROM crm.customers c RIGHT JOIN crm.notes n ON n.id = c.id;
CREATE VIEW crm.kept_right AS SELECT c.id, c.grade, c.phone, n.note FROM crm.notes n RIGHT JOIN crm.customers c ON n.id = c.id;
CREATE VIEW crm.maybe_full AS SELECT c.id, c.grade, c.phone, n.note FROM crm.customers c FULL JOIN crm.notes n ON n.id = c.id;
CREATE VIEW crm.full_maybe AS SELECT c.id, c.grade, c.phone, n.note FROM crm.notes n FULL JOIN crm.customers c ON n.id = c.id;
CREATE VIEW crm.of_both AS WITH c AS (SELECT id, phone FROM crm.customers) SELECT x.id, y.phone FROM c x JOIN c y ON y.id = x.id + 1;
CREATE VIEW crm.of_parts AS WITH c AS (SELECT id, phone FROM crm.customers)
    SELECT x.id, y.phone FROM (SELECT id FROM c) x JOIN (SELECT id, phone FROM c) y ON y.id = x.id + 1;
CREATE TABLE crm.leads (id bigint PRIMARY KEY, phone pg_catalog.text);
CREATE TABLE crm.carded (id bigint, card pg_catalog.text, owner pg_catalog.text);
CREATE AGGREGATE own.lag(pg_catalog.text) (sfunc = textcat, stype = pg_catalog.text);
CREATE AGGREGATE own.nth_value(pg_catalog.text) (sfunc = textcat, stype = pg_catalog.text);
CREATE AGGREGATE public.joined(pg_catalog.text) (sfunc = textcat, stype = pg_catalog.text);
CREATE FUNCTION public.stash(crm.customers) RETURNS boolean LANGUAGE plpgsql AS
    $$ BEGIN INSERT INTO crm.notes (id, note) VALUES (1, $1.phone); RETURN true; END $$;
CREATE SEQUENCE public.turns;
CREATE FUNCTION public.turn() RETURNS bigint LANGUAGE sql AS $$ SELECT nextval('public.turns') $$;
GRANT ALL ON ALL TABLES IN SCHEMA crm TO PUBLIC;
-- What mutants of the guard were told apart by: a relation that changes settings by a type and by code, a trusted function whose use of another the
-- catalog knows, one name for types that show data and the server's state, a column that is generated of one column.
CREATE TABLE own.flipped_both (id integer DEFAULT 1 CHECK (own.flip()), word own.flipping);
CREATE FUNCTION public.vouched(integer) RETURNS pg_catalog.text LANGUAGE sql BEGIN ATOMIC SELECT public.unvouched('SELECT 1'); END;
CREATE FUNCTION own.state(integer) RETURNS SETOF record LANGUAGE internal AS 'pg_stat_get_activity';
CREATE FUNCTION own.rows_as_xml(pg_catalog.text, boolean, boolean, pg_catalog.text) RETURNS xml LANGUAGE internal AS 'query_to_xml';
CREATE FUNCTION own.lists(pg_catalog.text) RETURNS SETOF pg_catalog.text LANGUAGE internal AS 'pg_ls_dir_1arg';
CREATE DOMAIN own.seen AS pg_catalog.text CHECK (public.looks(1) > 0);
CREATE DOMAIN own.twice AS pg_catalog.text CHECK (public.looks(1) > 0);
CREATE DOMAIN public.twice AS pg_catalog.text CHECK (public.reads_statistics() IS NOT NULL);
CREATE DOMAIN public.once AS pg_catalog.text CHECK (public.reads_statistics() IS NOT NULL);
CREATE FUNCTION own.by_seen() RETURNS pg_catalog.text LANGUAGE plpgsql AS $$ BEGIN RETURN 'x'::seen; END $$;
CREATE FUNCTION own.by_twice() RETURNS pg_catalog.text LANGUAGE plpgsql AS $$ BEGIN RETURN 'x'::twice; END $$;
CREATE FUNCTION own.by_once() RETURNS pg_catalog.text LANGUAGE plpgsql AS $$ BEGIN RETURN 'x'::once; END $$;
CREATE TABLE crm.headed (id bigint PRIMARY KEY, phone pg_catalog.text, head pg_catalog.text GENERATED ALWAYS AS (substr(phone, 1, 3)) STORED);
GRANT ALL ON ALL TABLES IN SCHEMA crm TO PUBLIC; GRANT ALL ON ALL TABLES IN SCHEMA own TO PUBLIC;
