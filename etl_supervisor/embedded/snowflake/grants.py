"""What roles may do with databases, schemas and tables, as far as a deployment and its doctor need it.

    CREATE ROLE r      GRANT | REVOKE CREATE TABLE, USAGE, … ON DATABASE | SCHEMA | TABLE name TO | FROM ROLE r

Only a role that was made here is looked after: any other may do everything. Such a role owns what it makes, and the owner of a schema may make
everything in it. As in Snowflake, what a role may not see is not there (002003), and what it sees and may not do is refused (003001).

`SHOW GRANTS TO ROLE` tells what a role has; of one that was not made here, that it may MANAGE GRANTS.

Looked at are the fully qualified names of a statement, or of every statement of a block, outside of its strings: what is made (CREATE), changed
(INSERT, UPDATE, DELETE, MERGE), altered (ALTER, COMMENT: the owner's) and read (FROM, JOIN, DESCRIBE), and stages. DROP is let pass. Nothing of this
outlives the process.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field

from etl_supervisor.embedded.snowflake.quoting import literal
from etl_supervisor.embedded.snowflake.users import RefusedError

_PART = r'(?:"(?:[^"]|"")+"|\w+)'
_QUOTED = re.compile(r"""(?P<name>"(?:[^"]|"")+")|'(?:[^'\\]|''|\\.)*'""")  # a name may have an apostrophe
_MADE_ROLE = re.compile(rf"\s*CREATE\s+ROLE\s+(?:IF\s+NOT\s+EXISTS\s+)?(?P<role>{_PART})\s*;?\s*$", re.IGNORECASE)
_GRANT = re.compile(
    rf"\s*(?P<verb>GRANT|REVOKE)\s+(?P<privileges>[\w\s,]+?)\s+ON\s+(?P<kind>DATABASE|SCHEMA|TABLE|WAREHOUSE|ACCOUNT)\b"
    rf"\s*(?P<name>{_PART}(?:\.{_PART})*)??\s+(?:TO|FROM)\s+ROLE\s+(?P<role>{_PART})\s*;?\s*$",
    re.IGNORECASE,
)
_SHOW = re.compile(rf"\s*SHOW\s+GRANTS\s+TO\s+ROLE\s+(?P<role>{_PART})\s*;?\s*$", re.IGNORECASE)
_SESSION = re.compile(r"\bCURRENT_(?P<what>ROLE|WAREHOUSE)\(\)", re.IGNORECASE)
_SCHEMA = re.compile(rf"\bCREATE\s+SCHEMA\s+(?:IF\s+NOT\s+EXISTS\s+)?(?P<name>{_PART}\.{_PART})", re.IGNORECASE)
_CREATE = re.compile(
    rf"\bCREATE\s+(?:OR\s+REPLACE\s+)?(?:TRANSIENT\s+|(?P<temporary>TEMPORARY\s+))?(?P<kind>DYNAMIC\s+TABLE|TABLE|VIEW|STAGE|PIPE|STREAM|TASK)\s+"
    rf"(?:IF\s+NOT\s+EXISTS\s+)?(?P<name>{_PART}\.{_PART}\.{_PART})",
    re.IGNORECASE,
)
_USED = re.compile(
    rf"(?P<verb>\bINSERT\s+INTO|\bUPDATE|\bDELETE\s+FROM|\bMERGE\s+INTO|\bCOPY\s+INTO|\bALTER\s+TABLE|\bCOMMENT\s+ON\s+(?:TABLE|COLUMN)"
    rf"|\bFROM|\bJOIN|\bDESCRIBE\s+TABLE|@)\s*(?P<name>{_PART}\.{_PART}\.{_PART})",
    re.IGNORECASE,
)
_NEEDED = {"INSERT": "INSERT", "UPDATE": "UPDATE", "DELETE": "DELETE", "MERGE": "UPDATE", "COPY": "INSERT"}
_OWNERS = ("ALTER", "COMMENT")
INFORMATION_SCHEMA = "INFORMATION_SCHEMA"
DEFAULT_ROLE, DEFAULT_WAREHOUSE = "SYSADMIN", "COMPUTE_WH"  # of users that ask for none
_TITLES = ("privilege", "granted_on", "name")
_KINDS = ("ACCOUNT", "DATABASE", "SCHEMA", "TABLE")  # by how many parts a name has

Name = tuple[str, ...]


@dataclass(slots=True)
class Grants:
    """Privileges by role and object (`()`: the account), who owns what, and the warehouses that a role may use."""

    roles: set[str] = field(default_factory=set)
    given: dict[tuple[str, Name], set[str]] = field(default_factory=lambda: defaultdict(set))
    owners: dict[Name, str] = field(default_factory=dict)
    warehouses: dict[str, set[Name]] = field(default_factory=lambda: defaultdict(set))

    def take(self, sql: str) -> bool:
        """Carry out a statement about roles and privileges; False for any other."""
        if made := _MADE_ROLE.match(sql):
            self.roles.add(_parts(made["role"])[0])
            return True
        if (found := _GRANT.match(sql)) is None:
            return False
        privileges = {" ".join(text.upper().split()) for text in found["privileges"].split(",")}
        role, name = _parts(found["role"])[0], _parts(found["name"] or "")
        if found["kind"].upper() == "WAREHOUSE":
            (set.add if found["verb"].upper() == "GRANT" else set.discard)(self.warehouses[role], name)
            return True
        there = self.given[role, name]
        if found["verb"].upper() == "GRANT":
            there |= privileges
        else:
            there -= privileges
        return True

    def answer(self, role: str, warehouse: str, sql: str) -> str:
        """A statement about grants, or about the session's role and warehouse, as one that the database can answer; any other as it is."""
        if found := _SHOW.match(sql):
            return _values(self._rows(_parts(found["role"])[0]))
        asked = _parts(warehouse or DEFAULT_WAREHOUSE)
        usable = role not in self.roles or asked in self.warehouses[role]
        told = {"ROLE": literal(role or DEFAULT_ROLE), "WAREHOUSE": literal(asked[0]) if usable else "NULL"}
        return _SESSION.sub(lambda item: told[item["what"].upper()], sql)

    def _rows(self, role: str) -> list[tuple[str, str, str]]:
        if role not in self.roles:
            return [("MANAGE GRANTS", "ACCOUNT", "LOCAL")]
        rows = [("USAGE", "WAREHOUSE", _shown(name)) for name in self.warehouses[role]]
        rows += [("OWNERSHIP", _KINDS[len(name)], _shown(name)) for name, owner in self.owners.items() if owner == role]
        for (grantee, name), privileges in self.given.items():
            if grantee == role:
                rows += [(privilege, _KINDS[len(name)], _shown(name)) for privilege in privileges]
        return sorted(rows)

    def check(self, role: str, sql: str) -> None:
        """RefusedError unless a role may run a statement; what it makes is its own then."""
        if role not in self.roles:
            return
        text = _QUOTED.sub(lambda item: item["name"] or "''", sql)
        for made in _SCHEMA.finditer(text):
            self._make(role, "SCHEMA", _parts(made["name"]))
        for made in _CREATE.finditer(text):
            name = _parts(made["name"])
            if made["temporary"]:  # the session's own, for which the schema need not be writable
                self._enter(role, name[:-1])
                self.owners[name] = role
            else:
                self._make(role, " ".join(made["kind"].upper().split()), name)
        for used in _USED.finditer(text):
            self._use(role, used["verb"].split()[0].upper(), _parts(used["name"]))

    def _make(self, role: str, kind: str, name: Name) -> None:
        inside = name[:-1]
        self._enter(role, inside)
        if not self._may(role, f"CREATE {kind}", inside):
            level = "database" if kind == "SCHEMA" else "schema"
            raise _insufficient(level, inside[-1])
        self.owners.setdefault(name, role)

    def _use(self, role: str, verb: str, name: Name) -> None:
        if name[1] == INFORMATION_SCHEMA:
            return self._enter(role, name[:1])
        self._enter(role, name[:2])
        if not (self.owners.get(name) == role or self.given[role, name]):
            raise _unknown("Object", name)
        if verb in _OWNERS and self.owners.get(name) != role:
            raise _insufficient("table", name[-1])
        if verb in _NEEDED and not self._may(role, _NEEDED[verb], name):
            raise _insufficient("table", name[-1])
        return None

    def _enter(self, role: str, name: Name) -> None:
        """A database, and a schema in it, that the role may use."""
        for level, kind in zip(range(1, len(name) + 1), ("Database", "Schema"), strict=False):
            if not self._may(role, "USAGE", name[:level]):
                raise _unknown(kind, name[:level])

    def _may(self, role: str, privilege: str, name: Name) -> bool:
        given = self.given[role, name]
        return self.owners.get(name) == role or not given.isdisjoint({privilege, "ALL", "ALL PRIVILEGES"})


def _parts(name: str) -> Name:
    """The parts of a name as Snowflake stores them."""
    found = re.findall(_PART, name)
    return tuple(part[1:-1].replace('""', '"') if part.startswith('"') else part.upper() for part in found)


def _shown(name: Name) -> str:
    """A name as SHOW prints it."""
    return ".".join(
        part if re.fullmatch(r"[A-Z_][A-Z0-9_$]*", part) else '"' + part.replace('"', '""') + '"' for part in name
    )


def _values(rows: list[tuple[str, str, str]]) -> str:
    lines = ", ".join(f"({', '.join(map(literal, row))})" for row in rows or [("", "", "")])
    columns = ", ".join(f'column{number} AS "{title}"' for number, title in enumerate(_TITLES, 1))
    return f"SELECT {columns} FROM (VALUES {lines}){'' if rows else ' WHERE 1 = 0'}"


def _insufficient(kind: str, name: str) -> RefusedError:
    return RefusedError("003001", f"SQL access control error:\nInsufficient privileges to operate on {kind} '{name}'")


def _unknown(kind: str, name: Name) -> RefusedError:
    return RefusedError("002003", f"{kind} '{'.'.join(name)}' does not exist or not authorized.")
