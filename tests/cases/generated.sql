-- Objects that generated statements use beside the shop: partitions, arrays, jsonb, a domain, an enumeration, a composite type.
CREATE TYPE crm.mood AS ENUM ('calm', 'happy', 'cross');
CREATE TYPE crm.contact AS (kind text, number text);
CREATE DOMAIN crm.short AS text CHECK (length(value) < 80);
CREATE TABLE crm.profiles (id int PRIMARY KEY, customer_id bigint NOT NULL, nick crm.short, mood crm.mood, tags text[], phones text[],
    extra jsonb, spare crm.contact);
INSERT INTO crm.profiles
SELECT id, id, phone, (ARRAY['calm', 'happy', 'cross'])[1 + id % 3]::crm.mood, ARRAY['tag ' || id % 5, city], ARRAY[phone, email],
    jsonb_build_object('phone', phone, 'list', ARRAY[id, 2], 'email', email), ROW('home', phone)::crm.contact
FROM crm.customers WHERE grade <> 'vip+';
CREATE TABLE crm.visits (id int, customer_id bigint NOT NULL, place text, day date NOT NULL) PARTITION BY RANGE (day);
CREATE TABLE crm.visits_2025 PARTITION OF crm.visits FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
CREATE TABLE crm.visits_2026 PARTITION OF crm.visits FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
INSERT INTO crm.visits SELECT id, id, address, date '2025-06-01' + 2 * id::int FROM crm.customers WHERE grade <> 'vip+';
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA crm TO PUBLIC;
ANALYZE;
