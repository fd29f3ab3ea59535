"""Django through Menshen: inspectdb gives what a direct connection gives; save() of a whole row is refused, of named fields it works."""

import io
import sys

import django
from django.conf import settings
from django.core.management import call_command
from django.db import connections, models, utils

port, database, upstream = sys.argv[1:4]


def at(port):
    return {"ENGINE": "django.db.backends.postgresql", "HOST": "127.0.0.1", "PORT": port, "NAME": database, "USER": "analyst",
            "PASSWORD": "tsylana", "OPTIONS": {"options": "-c search_path=crm"}}


settings.configure(DATABASES={"default": at(port), "direct": at(upstream)}, INSTALLED_APPS=[], DEFAULT_AUTO_FIELD="django.db.models.AutoField")
django.setup()

texts = []
for name in ("default", "direct"):
    out = io.StringIO()
    call_command("inspectdb", database=name, include_views=True, stdout=out)
    texts.append(out.getvalue())
assert texts[0] == texts[1] and "class Customers" in texts[0], texts[0]


class Customer(models.Model):
    id = models.BigIntegerField(primary_key=True)
    name = models.TextField()
    phone = models.TextField(null=True)
    grade = models.TextField(null=True)

    class Meta:
        managed = False
        db_table = "customers"
        app_label = "shop"


customer = Customer.objects.get(id=3)
assert customer.phone == "186****3757", customer.phone
assert Customer.objects.filter(phone__startswith="139", name__contains="*").count() > 0
assert list(Customer.objects.order_by("id").values_list("id", flat=True)[:3]) == [1, 2, 3]
customer.grade = "seen"
try:
    customer.save()
except utils.ProgrammingError as refused:
    assert "masked" in str(refused), refused
else:
    raise AssertionError("a whole row with masks was written")
customer.save(update_fields=["grade"])
assert Customer.objects.filter(pk=3).update(grade="again") == 1
with connections["direct"].cursor() as cursor:
    cursor.execute("SELECT phone, grade FROM crm.customers WHERE id = 3")
    phone, grade = cursor.fetchone()
assert "*" not in phone and grade == "again", (phone, grade)
print("all right")
