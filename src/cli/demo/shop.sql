-- A believable shop: customers (Chinese and foreign), where they were, what they wrote, paid and ordered. Everything is made up;
-- numbers have valid check digits (GB 11643 for identity cards, Luhn for bank cards).
CREATE SCHEMA crm;

CREATE TABLE crm.customers (
    id bigint PRIMARY KEY, name text NOT NULL, id_card text, phone text, email text, address text, birth date, grade text,
    city text, created_at timestamptz NOT NULL);
CREATE TABLE crm.customer_locations (
    id bigint PRIMARY KEY, customer_id bigint NOT NULL, lat double precision, lon double precision, seen_at timestamptz);
CREATE TABLE crm.messages (
    id bigint PRIMARY KEY, customer_id bigint NOT NULL, sent_at timestamptz, body text);
CREATE TABLE crm.transactions (
    id bigint PRIMARY KEY, customer_id bigint NOT NULL, bank_card text, amount numeric(12,2), at timestamptz);
CREATE TABLE crm.orders (
    id bigint PRIMARY KEY, customer_id bigint NOT NULL, item text, total numeric(10,2), status text, at timestamptz);
CREATE TABLE crm.products (id int PRIMARY KEY, name text, price numeric(10,2));

WITH person AS (
    SELECT g AS id, g % 8 = 0 AS abroad,
        date '1950-01-01' + (g * 37 % 20000)::int AS birth,
        (ARRAY['110101','310104','440305','330106','510107','420106','320102','610113'])[1 + g % 8] AS area,
        (ARRAY['北京市东城区','上海市徐汇区','广东省深圳市南山区','浙江省杭州市西湖区','四川省成都市武侯区','湖北省武汉市武昌区',
               '江苏省南京市玄武区','陕西省西安市雁塔区'])[1 + g % 8] AS place,
        (ARRAY['王','李','张','刘','陈','欧阳','赵','黄','司马','周','吴','诸葛'])[1 + g % 12]
            || (ARRAY['伟','芳','秀英','敏','静','丽','强','磊','军','洋','勇','艳'])[1 + (g / 12) % 12]
            || (ARRAY['','华','国','文','明'])[1 + (g / 144) % 5] AS chinese,
        (ARRAY['Anna','John','Marie','Pedro','Olga','Kofi','Yuki','Lars'])[1 + (g / 8) % 8] || ' '
            || (ARRAY['Smith','Müller','Dupont','García','Ivanova','Mensah','Tanaka','Hansen'])[1 + (g / 64) % 8] AS foreigner
      FROM generate_series(1, :people) g
), numbered AS (
    SELECT *, area || to_char(birth, 'YYYYMMDD') || lpad((id % 1000)::text, 3, '0') AS seventeen FROM person
), checked AS (
    SELECT *, seventeen || substr('10X98765432', 1 + (
        SELECT sum(substr(seventeen, n, 1)::int * (ARRAY[7,9,10,5,8,4,2,1,6,3,7,9,10,5,8,4,2])[n])::int % 11
          FROM generate_series(1, 17) n), 1) AS id_card FROM numbered
)
INSERT INTO crm.customers
SELECT id, CASE WHEN abroad THEN foreigner ELSE chinese END,
    CASE WHEN abroad THEN NULL ELSE id_card END,
    CASE WHEN abroad THEN '+44' || (7700000000 + id * 131)::text
         ELSE (ARRAY['138','139','150','186','177'])[1 + id % 5] || lpad((id * 7919 % 100000000)::text, 8, '0') END,
    'c' || lpad(id::text, 6, '0') || '@' || (ARRAY['example.com','mail.example.cn','post.example.org'])[1 + id % 3],
    CASE WHEN abroad THEN (id % 200 + 1) || ' High Street, Flat ' || id ELSE place || '科技路' || id || '号' || (id % 30 + 1) || '室' END,
    birth, (ARRAY['一般','重点','vip','vip+','一般','重点'])[1 + id % 6],
    CASE WHEN abroad THEN 'abroad' ELSE (ARRAY['北京','上海','深圳','杭州','成都','武汉','南京','西安'])[1 + id % 8] END,
    timestamptz '2024-01-01 00:00:00+00' + id * interval '7 minutes'
FROM checked;

INSERT INTO crm.customer_locations
SELECT g, 1 + g * 13 % :people, 22.5 + (g % 1000) / 7000.0, 113.9 + (g % 777) / 7000.0,
    timestamptz '2026-01-01 00:00:00+00' + g * interval '3 minutes' FROM generate_series(1, :people) g;
INSERT INTO crm.messages
SELECT g, 1 + g * 17 % :people, timestamptz '2026-02-01 00:00:00+00' + g * interval '5 minutes',
    (ARRAY['请问我的订单','Where is my parcel','我要退货','Please call me about order'])[1 + g % 4] || ' #' || (g * 104729 % 999983)
FROM generate_series(1, :people) g;
INSERT INTO crm.transactions
SELECT g, 1 + g * 7 % :people, fifteen || ((10 - (
        SELECT sum(CASE WHEN n % 2 = 1 THEN CASE WHEN d > 4 THEN d * 2 - 9 ELSE d * 2 END ELSE d END)::int % 10
          FROM (SELECT n, substr(fifteen, n, 1)::int AS d FROM generate_series(1, 15) n) digits)) % 10),
    (g * 977 % 500000) / 100.0 + 1, timestamptz '2026-03-01 00:00:00+00' + g * interval '11 minutes'
FROM (SELECT g, '622202' || lpad((g * 7907 % 1000000000)::text, 9, '0') AS fifteen FROM generate_series(1, :people) g) cards;
INSERT INTO crm.orders
SELECT g, 1 + g * 11 % :people, 'item ' || g % 50, (g * 331 % 900000) / 100.0, (ARRAY['new','paid','sent','done'])[1 + g % 4],
    timestamptz '2026-04-01 00:00:00+00' + g * interval '2 minutes' FROM generate_series(1, :people * 2) g;
INSERT INTO crm.products SELECT g, 'item ' || g, g * 1.5 FROM generate_series(0, 49) g;

CREATE INDEX ON crm.messages (customer_id);
CREATE INDEX ON crm.orders (customer_id);
CREATE INDEX ON crm.transactions (customer_id);
CREATE INDEX ON crm.customer_locations (customer_id);
ANALYZE;
