"""SQLAlchemy through Menshen: reflection is that of a direct connection; the ORM reads masks and cannot write them back."""

import sys

from sqlalchemy import create_engine, exc, func, inspect, select
from sqlalchemy.ext.automap import automap_base
from sqlalchemy.orm import Session

port, database, upstream = sys.argv[1:4]
url = "postgresql+psycopg://analyst:tsylana@127.0.0.1:{}/" + database
through, direct = create_engine(url.format(port)), create_engine(url.format(upstream))

a, b = inspect(through), inspect(direct)
assert sorted(a.get_schema_names()) == sorted(b.get_schema_names())
assert sorted(a.get_table_names("crm")) == sorted(b.get_table_names("crm"))
assert sorted(a.get_view_names("crm")) == sorted(b.get_view_names("crm"))
for table in a.get_table_names("crm"):
    for what in ("get_columns", "get_pk_constraint", "get_foreign_keys", "get_indexes", "get_unique_constraints",
                 "get_check_constraints", "get_table_comment"):
        assert str(getattr(a, what)(table, "crm")) == str(getattr(b, what)(table, "crm")), (table, what)
assert str(a.get_view_definition("v_contacts", "crm")) == str(b.get_view_definition("v_contacts", "crm"))

Base = automap_base()
Base.prepare(autoload_with=through, schema="crm")
Customer, Order = Base.classes.customers, Base.classes.orders
with Session(through) as session:
    customers = session.scalars(select(Customer).where(Customer.id < 5).order_by(Customer.id)).all()
    assert [c.phone for c in customers] == ["139****7919", "150****5838", "186****3757", "177****1676"], [c.phone for c in customers]
    # SQLAlchemy writes changed columns only: an unclassified one may be changed.
    customers[0].grade = "changed"
    session.flush()
    assert session.scalar(select(func.count()).where(Customer.grade == "changed")) == 1
    rows = session.execute(select(Order.id, Customer.name).join(Customer, Customer.id == Order.customer_id).limit(3)).all()
    assert len(rows) == 3 and all("*" in r.name for r in rows)
    new = Order(id=90001, customer_id=1, item="x", status="new")
    session.add(new)
    session.flush()
    session.delete(new)
    session.flush()
    session.rollback()
    # A mask that is written back is refused, and destroys nothing.
    customer = session.get(Customer, 1)
    customer.phone = customer.phone + " "
    try:
        session.flush()
    except exc.ProgrammingError as refused:
        assert "write-masked-column" in str(refused), refused
    else:
        raise AssertionError("a masked column was written")
    session.rollback()
print("all right")
