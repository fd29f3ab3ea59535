#!/usr/bin/env python3
"""Makes known.txt: every function and relation of pg_catalog and information_schema of the PostgreSQL versions that are known, sorted.

Usage: sort.py VERSION=FUNCTIONS.tsv:RELATIONS.tsv …   (the queries that give these files stand in README.md beside this file)

A function that is immutable in every version works on its arguments alone: PostgreSQL itself relies on that. One that takes or
returns a pseudo-type of the server's inside cannot be called from SQL, or only reads and writes a type's text. What remains was gone
through by hand: what postgresql.toml lists is denied for the reason given there, the rest is harmless.
"""

import sys
import tomllib
from pathlib import Path

HERE = Path(__file__).parent


def listed():
    names, prefixes = {}, {}
    for entry in tomllib.loads((HERE / "postgresql.toml").read_text())["functions"]:
        for name in entry["names"]:
            (prefixes if name.endswith("*") else names)[name.rstrip("*")] = entry["class"]
    return names, prefixes


def main():
    functions, relations = {}, {}
    for argument in sys.argv[1:]:
        version, files = argument.split("=")
        of_functions, of_relations = files.split(":")
        for line in Path(of_functions).read_text().splitlines():
            name, volatility, _, internal = line.split("\t")[:4]
            known = functions.setdefault(name, {"versions": [], "immutable": True, "internal": True})
            known["immutable"] &= volatility == "i"
            known["internal"] &= internal == "1"
            if version not in known["versions"]:
                known["versions"].append(version)
        for line in Path(of_relations).read_text().splitlines():
            relations.setdefault(line.split("\t")[0], []).append(version)
    names, prefixes = listed()
    out = ["# Made by sort.py: kind, name, class, versions. What is not here is refused: a future version's functions must be looked at."]
    for name, known in sorted(functions.items()):
        sort = names.get(name) or next((c for p, c in prefixes.items() if name.startswith(p)), None)
        if sort is None:
            sort = "internal" if known["internal"] else "immutable" if known["immutable"] else "harmless"
        out.append("\t".join(["f", name, sort, f"{known['versions'][0]}-{known['versions'][-1]}"]))
    for name, versions in sorted(relations.items()):
        out.append("\t".join(["r", name, "", f"{versions[0]}-{versions[-1]}"]))
    (HERE / "known.txt").write_text("\n".join(out) + "\n")
    print(len(functions), "functions,", len(relations), "relations")


main()
