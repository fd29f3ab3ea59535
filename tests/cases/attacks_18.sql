-- Objects that the attacks of attacks.toml use on PostgreSQL 18.
CREATE TABLE crm.virtual (id int, customer_id bigint, phone text, loud text GENERATED ALWAYS AS (upper(phone)),
    packed text[] GENERATED ALWAYS AS (ARRAY[phone, upper(phone)]) VIRTUAL);
INSERT INTO crm.virtual SELECT id, id, phone FROM crm.customers WHERE grade <> 'vip+';
CREATE VIEW crm.v_virtual AS SELECT id, loud || '' AS louder FROM crm.virtual;
GRANT ALL ON crm.virtual, crm.v_virtual TO PUBLIC;
