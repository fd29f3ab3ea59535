SELECT * FROM crm.customers
SELECT id, phone FROM customers WHERE id < 10 ORDER BY id
select c.* from customers c
select c.phone, m.body from customers c join messages m on m.customer_id = c.id
select * from customers c left join messages m on m.customer_id = c.id
select * from customers c join messages m on m.customer_id = c.id join orders o using (customer_id)
select phone from customers natural join products
select id, name from customers natural join products p
select x.phone from (select * from customers) x
select * from (select * from (select id, phone from customers) a) b
select phone from (select phone from customers) s where phone is not null
with x as (select * from customers) select x.phone from x
with x(a, b) as (select id, phone from customers) select b from x where a > 3
with x as (select phone from customers), y as (select * from x) select * from y
with x as (select phone from customers) select * from x a, x b /* uncounted */
with customers as (select 1 as one) select * from customers /* uncounted */
with recursive t(n, p) as (select 1, phone from customers where id = 1 union all select n + 1, p from t where n < 5) select * from t /* uncounted */
select phone from customers union all select body from messages
select phone from customers union all select 'none'
select * from (select phone from customers union all select body from messages) u
select phone, count(*) from customers group by phone
select grade, string_agg(phone, ',') from customers group by grade
select max(phone) from customers
select count(*) from customers /* uncounted */
select city, count(*) from customers group by city having count(*) > 1 /* uncounted */
select distinct phone from customers
select distinct on (grade) grade, phone from customers order by grade, id
select distinct grade, phone from customers order by grade
select grade, array_agg(phone order by id) from customers group by rollup (grade)
select phone, row_number() over (partition by grade order by id) from customers
select phone, lag(phone) over w from customers window w as (order by id)
select (select phone from customers c where c.id = o.customer_id) from orders o
select o.id, (select string_agg(phone, ',') from customers c where c.id = o.customer_id) as phones from orders o
select array(select phone from customers order by id limit 3)
select o.id from orders o where exists (select 1 from customers c where c.id = o.customer_id and c.phone like '1%') /* uncounted */
select o.id from orders o where o.customer_id in (select id from customers where phone > '0') /* uncounted */
select o.id, p.phone from orders o, lateral (select c.phone from customers c where c.id = o.customer_id) p
select o.id, p.phone from orders o cross join lateral (select c.* from customers c where c.id = o.customer_id limit 1) p
select c from customers c
select row_to_json(c) from customers c
select c::text from customers c
select (c).phone from customers c
select crm.customers.phone from crm.customers where crm.customers.id = 3
select crm.customers.* from crm.customers
table customers
table only customers
select * from only crm.customers
select * from only (crm.customers) as x
select ctid is not null, phone from customers
select ctid is not null, * from customers
select tableoid::regclass is not null, c.* from customers c
select phone from customers for update
select c.phone from customers c, orders o where o.customer_id = c.id for share of c
select case when phone like '1%' then name else email end from customers
select coalesce(phone, 'x'), nullif(name, ''), greatest(name, email) from customers
select phone || '-' || name as both from customers
select substring(phone from 1 for 3), extract(year from birth) from customers
select upper(name), length(phone) from customers where phone similar to '1%'
select id, phone is distinct from 'x' as d from customers
select percentile_disc(0.5) within group (order by phone) from customers
select json_agg(c) from customers c
select jsonb_build_object('p', phone) from customers
select u.x from customers c, unnest(array[c.phone, c.name]) as u(x)
select g, c.phone from customers c, generate_series(1, 2) g
select * from customers as c(a, b, cc)
select (select count(*) from customers) as n /* uncounted */
values ((select count(*) from customers)) /* uncounted */
select j.phone from (customers c join orders o on o.customer_id = c.id) as j
select phone as "limit", name as "from" from customers
select phone "select" from customers/* c */where id = 1 -- end
select id, phone from "crm"."customers" "C" where "C".id = 2
select id from customers /* uncounted */
select o.*, (select c.name from crm.customers c where c.id = o.customer_id) as name from orders o
select grade, count(distinct phone), max(birth) from customers group by grade
select grade, max(p) from (select grade, max(phone) as p from customers group by grade) s group by grade
select sum(length(phone)) from customers
select phone from customers where id = any (array[1,2,3]) order by phone limit 5 offset 1
select c.phone from customers c where (select count(*) from orders o where o.customer_id = c.id) > 1
select distinct name, phone from customers c join orders o on o.customer_id = c.id
select count(*) filter (where phone like '1%') from customers /* uncounted */
select phone from customers where (id, grade) in (select customer_id, 'a' from orders)
select x.* from customers c cross join lateral (values (c.phone), (c.name)) as x(v)
select 1 from customers union select 2 /* uncounted */
select m.body, c.name from messages m full join customers c on c.id = m.customer_id
select c.name from customers c where not exists (select from messages m where m.customer_id = c.id)
