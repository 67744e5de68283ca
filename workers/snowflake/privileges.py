"""What a role needs at a destination, what it has (`SHOW GRANTS`), and the statements that close the gap.

What the role makes it owns, so only containers count: the account, the warehouse, the database and the two schemas. Roles that were granted to the
role are looked into as well. A role that may MANAGE GRANTS can give itself anything, and is let pass.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from etl_supervisor.model.apply_policy import ApplyMode
from etl_supervisor.model.naming import SchemaMapping
from etl_supervisor.model.pipeline import Destination, LoadPath, Pipeline
from workers.snowflake.identifiers import quoted

ROLES_MAX = 100  # of a hierarchy that is looked into
_PART = re.compile(r'"((?:[^"]|"")+)"|([^.]+)')

Name = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Container:
    """Something that privileges are on: its kind as SQL has it, and its name (`()`: the account)."""

    kind: str
    name: Name

    @property
    def sql(self) -> str:
        """As GRANT takes it."""
        return " ".join(filter(None, (self.kind, ".".join(map(quoted, self.name)))))


@dataclass(slots=True)
class Held:
    """What a role has, by its own grants and those of its roles."""

    privileges: set[tuple[str, Container]]

    @property
    def everything(self) -> bool:
        """True for a role that can give itself anything."""
        return ("MANAGE GRANTS", ACCOUNT) in self.privileges

    def has(self, privilege: str, there: Container) -> bool:
        """By the privilege itself, or because it owns the container. To use a database or schema any privilege in it does not do."""
        return any((given, there) in self.privileges for given in (privilege, "ALL", "ALL PRIVILEGES", "OWNERSHIP"))


ACCOUNT = Container("ACCOUNT", ())


def needed(destination: Destination, pipelines: Sequence[Pipeline]) -> dict[Container, list[str]]:
    """The privileges that these pipelines need, by container; the schemas are taken as being there."""
    database = Container("DATABASE", (destination.database,))
    landing = Container("SCHEMA", (destination.database, destination.landing_schema))
    target = Container("SCHEMA", (destination.database, destination.schema))
    modes, paths = _modes(pipelines), {path for item in pipelines for path in (item.load.path, item.copy_load.path)}
    wanted: dict[Container, list[str]] = {
        database: ["USAGE"],
        landing: ["USAGE", "CREATE TABLE"],
        target: ["USAGE"],
        ACCOUNT: [],
    }
    if destination.naming.mapping is SchemaMapping.SCHEMA:
        wanted[database].append("CREATE SCHEMA")
    if paths - {LoadPath.STREAMING}:
        wanted[landing].append("CREATE STAGE")
    if LoadPath.SNOWPIPE in paths:
        wanted[landing].append("CREATE PIPE")
    if any(mode.has_target for mode in modes):
        wanted[target] += ["CREATE TABLE", "CREATE VIEW"]
    if ApplyMode.DYNAMIC_TABLE in modes:
        wanted[target].append("CREATE DYNAMIC TABLE")
    if ApplyMode.TASK in modes:
        wanted[landing] += ["CREATE STREAM", "CREATE TASK"]
        wanted[ACCOUNT].append("EXECUTE TASK")
    return wanted


def needs_warehouse(pipelines: Sequence[Pipeline]) -> bool:
    """True unless rows only stream into change logs."""
    copies = any(LoadPath.COPY in (item.load.path, item.copy_load.path) for item in pipelines)
    return copies or _modes(pipelines) != {ApplyMode.APPEND}


def _modes(pipelines: Sequence[Pipeline]) -> set[ApplyMode]:
    return {policy.mode for item in pipelines for policy in (item.policy, *(one.policy for one in item.exceptions))}


def held(cursor: Any, role: str) -> Held:
    """Ask Snowflake. Its error where the role may not even see its own grants."""
    found, left, seen = Held(set()), [role], {role}
    while left and len(seen) <= ROLES_MAX:
        cursor.execute(f"SHOW GRANTS TO ROLE {quoted(left.pop())}")
        titles = [item[0].lower() for item in cursor.description]
        for row in (dict(zip(titles, values, strict=True)) for values in cursor.fetchall()):
            kind, name = str(row["granted_on"]).upper().replace("_", " "), parts(str(row["name"]))
            if kind == "ROLE" and name[-1] not in seen:
                seen.add(name[-1])
                left.append(name[-1])
            there = ACCOUNT if kind == "ACCOUNT" else Container(kind, name)
            found.privileges.add((str(row["privilege"]).upper(), there))
    return found


def missing(wanted: dict[Container, list[str]], have: Held) -> Iterator[tuple[Container, list[str]]]:
    """What the role lacks, by container."""
    if have.everything:
        return
    for there, privileges in wanted.items():
        if lacking := [privilege for privilege in privileges if not have.has(privilege, there)]:
            yield there, lacking


def parts(name: str) -> Name:
    """The parts of a name as SHOW prints it: `DB.SCHEMA`, `DB."schema"`."""
    return tuple(plain or inside.replace('""', '"') for inside, plain in _PART.findall(name))
