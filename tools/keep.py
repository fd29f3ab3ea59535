"""A regression file without what takes objects away: DROP, ROLLBACK, TRUNCATE … and statements that end the session."""

import re
import sys

text = open(sys.argv[1], encoding="utf-8", errors="replace").read()
text = re.sub(r"^\\(?!\.).*$", "", text, flags=re.M)
out = []
for line in text.splitlines():
    if re.match(r"\s*(drop\s+(table|view|schema|function|type|domain|materialized|sequence|index|operator|aggregate|owned)|rollback|"
                r"begin|commit|end\s*;|start transaction|abort|alter table \S+ rename|set session authorization|set role|"
                r"reset session authorization|discard)\b", line, re.I) and ";" in line:
        continue
    out.append(line)
print("\n".join(out))
