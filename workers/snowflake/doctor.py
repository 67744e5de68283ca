"""What `doctor` looks at in a destination. Reads only.

key_file, config     the private key: there, readable, closed to others, of its passphrase
destination_…, role  the login by SQL; when it is refused, whether the role is why
streaming_role       the login of Snowpipe Streaming, under the same role
warehouse, database  what the session has of what is configured
schema, grants       the schemas, and what the role may do in them: what these pipelines need, and no more
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from snowflake.connector.errors import Error

from etl_supervisor.config.settings import Settings
from etl_supervisor.errors import EtlError, Kind
from etl_supervisor.model.finding import Finding, Weight
from etl_supervisor.model.pipeline import Destination, LoadPath, Pipeline
from workers.snowflake.connection import DOES_NOT_EXIST, classify, connect, load_private_key
from workers.snowflake.identifiers import quoted
from workers.snowflake.inquiry import Inquiries, InquiryError
from workers.snowflake.privileges import Container, held, missing, needed, needs_warehouse

OTHERS = 0o007  # permission bits of everybody else


def examine(settings: Settings, destination: Destination, pipelines: Sequence[Pipeline]) -> list[Finding]:
    """Everything that is found at a destination of these pipelines."""
    decrypt = settings.keyring().decrypt
    try:
        load_private_key(destination, decrypt, settings.directory)
    except EtlError as error:
        return [Finding.of(error)]
    found = list(_key_file(settings, destination))
    try:
        with contextlib.closing(connect(destination, decrypt, settings.directory, purpose="doctor")) as session:
            found += _session(session, destination, pipelines)
    except EtlError as error:
        return [*found, _refused(settings, destination, error)]
    except Error as error:
        return [*found, Finding.of(classify(error, _place(destination), Kind.DESTINATION_SETUP))]
    return [*found, *_streaming(settings, destination, pipelines)]


def _key_file(settings: Settings, destination: Destination) -> Iterator[Finding]:
    path = settings.directory / destination.private_key_path
    if path.stat().st_mode & OTHERS:
        reason = f"private key {destination.private_key_path} can be read by every user of this machine"
        yield Finding(Weight.RISK, "key_file", _place(destination), reason, f"chmod 600 {destination.private_key_path}")


def _refused(settings: Settings, destination: Destination, error: EtlError) -> Finding:
    """A login that is refused: the same without the role tells whether it is the role's fault."""
    if error.kind is not Kind.DESTINATION_AUTH or not destination.role:
        return Finding.of(error)
    try:
        connect(
            replace(destination, role=None), settings.keyring().decrypt, settings.directory, purpose="doctor"
        ).close()
    except EtlError:
        return Finding.of(error)
    reason = f"user {destination.user} may log in, but not as role {destination.role}"
    remedy = f"GRANT ROLE {destination.role} TO USER {destination.user}"
    return Finding(Weight.WRONG, "role", _place(destination), reason, remedy)


def _streaming(settings: Settings, destination: Destination, pipelines: Sequence[Pipeline]) -> Iterator[Finding]:
    if not any(LoadPath.STREAMING in (item.load.path, item.copy_load.path) for item in pipelines):
        return
    try:
        Inquiries(settings.keyring().decrypt, settings.directory).enter(destination)
    except InquiryError as error:
        reason = f"SQL lets user {destination.user} in, Snowpipe Streaming does not: {error}"
        remedy = "check the role, and network policies and proxies for the account's host"
        yield Finding(Weight.WRONG, "streaming_role", _place(destination), reason, remedy)


def _session(session: Any, destination: Destination, pipelines: Sequence[Pipeline]) -> list[Finding]:
    with session.cursor() as cursor:
        cursor.execute("SELECT CURRENT_ROLE(), CURRENT_WAREHOUSE()")
        role, warehouse = cursor.fetchone()
        found = list(_warehouse(destination, role, warehouse, pipelines))
        schemas = _schemas(cursor, destination)
        if schemas is None:
            reason = f"database {destination.database} does not exist, or role {role} may not use it"
            remedy = _grant(["USAGE"], Container("DATABASE", (destination.database,)), role)
            return [*found, Finding(Weight.WRONG, "database", _place(destination), reason, remedy)]
        return [*found, *_grants(cursor, destination, role, schemas, pipelines)]


def _warehouse(destination: Destination, role: str, warehouse: str | None, pipelines: Sequence[Pipeline]) -> Iterator[Finding]:  # fmt: skip
    if warehouse or not needs_warehouse(pipelines):
        return
    if wanted := destination.warehouse:
        reason = f"warehouse {wanted} does not exist, or role {role} may not use it"
        remedy = f"GRANT USAGE ON WAREHOUSE {wanted} TO ROLE {quoted(role)}"
    else:
        reason = "no warehouse is set, and the user has none by default: nothing can be applied"
        remedy = "set snowflake_warehouse of the destination"
    yield Finding(Weight.WRONG, "warehouse", _place(destination), reason, remedy)


def _schemas(cursor: Any, destination: Destination) -> set[str] | None:
    """The schemas that the role sees; None when it does not even see the database."""
    try:
        cursor.execute(f"SELECT SCHEMA_NAME FROM {quoted(destination.database)}.INFORMATION_SCHEMA.SCHEMATA")
    except Error as error:
        if error.errno == DOES_NOT_EXIST:
            return None
        raise
    return {name for (name,) in cursor.fetchall()}


def _grants(
    cursor: Any, destination: Destination, role: str, schemas: set[str], pipelines: Sequence[Pipeline]
) -> Iterator[Finding]:
    have, place = held(cursor, role), _place(destination)
    database = Container("DATABASE", (destination.database,))
    may_make = have.everything or have.has("CREATE SCHEMA", database)
    for there, lacking in missing(needed(destination, pipelines), have):
        absent = there.kind == "SCHEMA" and there.name[-1] not in schemas
        if absent and may_make:
            continue  # the role makes it, and owns it then
        if absent:
            reason = (
                f"schema {there.name[-1]} does not exist (or role {role} does not see it), and the role may make none"
            )
            remedy = f"CREATE SCHEMA IF NOT EXISTS {'.'.join(map(quoted, there.name))}; {_grant(lacking, there, role)}"
            yield Finding(Weight.WRONG, "schema", place, reason, remedy)
            continue
        what = " ".join((there.kind.lower(), *there.name[-1:]))
        reason = f"role {role} lacks {', '.join(lacking)} on {what}"
        yield Finding(Weight.WRONG, "grants", place, reason, _grant(lacking, there, role))


def _grant(privileges: list[str], there: Container, role: str) -> str:
    return f"GRANT {', '.join(privileges)} ON {there.sql} TO ROLE {quoted(role)}"


def _place(destination: Destination) -> str:
    return f"destination {destination.name}"
