"""What roles may do with databases, schemas and tables, as far as a deployment and its doctor need it.

    CREATE ROLE r      GRANT | REVOKE CREATE TABLE, USAGE, … ON DATABASE | SCHEMA | TABLE name TO | FROM ROLE r

Only a role that was made here is looked after: any other may do everything. Such a role owns what it makes, and the owner of a schema may make
everything in it. As in Snowflake, what a role may not see is not there (002003), and what it sees and may not do is refused (003001).

Looked at are the fully qualified names of a statement, or of every statement of a block, outside of its strings: what is made (CREATE), changed
(INSERT, UPDATE, DELETE, MERGE), altered (ALTER, COMMENT: the owner's) and read (FROM, JOIN, DESCRIBE), and stages. DROP is let pass. Nothing of this
outlives the process.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field

from etl_supervisor.embedded.snowflake.users import RefusedError

_PART = r'(?:"(?:[^"]|"")+"|\w+)'
_STRING = re.compile(r"'(?:[^'\\]|''|\\.)*'")
_MADE_ROLE = re.compile(rf"\s*CREATE\s+ROLE\s+(?:IF\s+NOT\s+EXISTS\s+)?(?P<role>{_PART})\s*;?\s*$", re.IGNORECASE)
_GRANT = re.compile(
    rf"\s*(?P<verb>GRANT|REVOKE)\s+(?P<privileges>[\w\s,]+?)\s+ON\s+(?P<kind>DATABASE|SCHEMA|TABLE|WAREHOUSE|ACCOUNT)\b"
    rf"\s*(?P<name>{_PART}(?:\.{_PART})*)??\s+(?:TO|FROM)\s+ROLE\s+(?P<role>{_PART})\s*;?\s*$",
    re.IGNORECASE,
)
_SCHEMA = re.compile(rf"\bCREATE\s+SCHEMA\s+(?:IF\s+NOT\s+EXISTS\s+)?(?P<name>{_PART}\.{_PART})", re.IGNORECASE)
_CREATE = re.compile(
    rf"\bCREATE\s+(?:OR\s+REPLACE\s+)?(?:TRANSIENT\s+)?(?P<kind>DYNAMIC\s+TABLE|TABLE|VIEW|STAGE|PIPE|STREAM|TASK)\s+"
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

Name = tuple[str, ...]


@dataclass(slots=True)
class Grants:
    """Privileges by role and object (`()`: the account), and who owns what."""

    roles: set[str] = field(default_factory=set)
    given: dict[tuple[str, Name], set[str]] = field(default_factory=lambda: defaultdict(set))
    owners: dict[Name, str] = field(default_factory=dict)

    def take(self, sql: str) -> bool:
        """Carry out a statement about roles and privileges; False for any other."""
        if made := _MADE_ROLE.match(sql):
            self.roles.add(_parts(made["role"])[0])
            return True
        if (found := _GRANT.match(sql)) is None:
            return False
        privileges = {" ".join(text.upper().split()) for text in found["privileges"].split(",")}
        there = self.given[_parts(found["role"])[0], _parts(found["name"] or "")]
        if found["verb"].upper() == "GRANT":
            there |= privileges
        else:
            there -= privileges
        return True

    def check(self, role: str, sql: str) -> None:
        """RefusedError unless a role may run a statement; what it makes is its own then."""
        if role not in self.roles:
            return
        text = _STRING.sub("''", sql)
        for made in _SCHEMA.finditer(text):
            self._make(role, "SCHEMA", _parts(made["name"]))
        for made in _CREATE.finditer(text):
            self._make(role, " ".join(made["kind"].upper().split()), _parts(made["name"]))
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


def _insufficient(kind: str, name: str) -> RefusedError:
    return RefusedError("003001", f"SQL access control error:\nInsufficient privileges to operate on {kind} '{name}'")


def _unknown(kind: str, name: Name) -> RefusedError:
    return RefusedError("002003", f"{kind} '{'.'.join(name)}' does not exist or not authorized.")
