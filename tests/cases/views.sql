-- Views over protected tables, for the tests.
CREATE VIEW crm.v_contacts AS SELECT id, name, phone AS tel, grade FROM crm.customers;
CREATE VIEW crm.v_vip AS SELECT c.id, c.tel, c.grade FROM crm.v_contacts c WHERE c.grade = 'vip';
CREATE VIEW crm.v_gradeless AS SELECT id, phone FROM crm.customers;
CREATE VIEW crm.v_talk AS SELECT m.id AS message_id, m.customer_id, m.body, o.status
    FROM crm.messages m JOIN crm.orders o ON o.customer_id = m.customer_id;
CREATE TABLE crm.notes (id int PRIMARY KEY, customer_id bigint, note text);
INSERT INTO crm.notes SELECT g, g, 'note ' || g FROM generate_series(1, 20) g;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA crm TO PUBLIC;
CREATE ROLE md5_login LOGIN; CREATE ROLE trusted LOGIN; CREATE ROLE plain LOGIN PASSWORD 'nialp'; CREATE ROLE stranger LOGIN PASSWORD 'regnarts';
SET password_encryption = 'md5'; ALTER ROLE md5_login PASSWORD 'nigol_5dm';
-- Whoever is in it needs no password.
CREATE ROLE many_logins;
