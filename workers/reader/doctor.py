"""What `doctor` looks at in a source: server, rights, slots. Reads only; each check is a query and what its rows mean. Its tables: `doctor_tables`.

wal_level, version, publications      as the reader checks them at its start (`source.faults`), all of them
replication_role                      whether the user may replicate: by its attributes, else by trying
tls                                   a connection over a network that others can read, or that may end at somebody else
slots, senders                        how many are left of max_replication_slots and max_wal_senders
wal_limit                             nothing ends a slot that stands still
slot, orphan_slot                     close to being lost; ours by name, but of no pipeline that is configured
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import psycopg

from etl_supervisor.config.settings import Settings
from etl_supervisor.errors import EtlError
from etl_supervisor.model.finding import Finding, Weight
from etl_supervisor.model.parking import apart
from etl_supervisor.model.pipeline import Source, SourceSpec
from workers.reader import doctor_tables
from workers.reader import source as sources
from workers.reader.slot import read_slot
from workers.reader.stream import ReplicationStream, broken_off, connect

SPARE_MIN = 2  # a first copy and a parked pipeline need one each
HERE = ("localhost", "127.0.0.1", "::1")

_LEFT = """
SELECT 'slots', 'max_replication_slots', current_setting('max_replication_slots')::int - (SELECT count(*) FROM pg_replication_slots)
UNION ALL
SELECT 'senders', 'max_wal_senders', current_setting('max_wal_senders')::int - (SELECT count(*) FROM pg_stat_replication)
"""
_OURS = """
SELECT slot_name, active FROM pg_replication_slots WHERE NOT temporary AND database = current_database()
AND slot_name ~ '^etl_stream_[0-9]+(_p[0-9]+)?$' ORDER BY 1
"""


def examine(settings: Settings, spec: SourceSpec, ours: Iterable[str]) -> list[Finding]:
    """Everything that is found in a source. `ours` are the slots that somebody configured has or may have."""
    source = spec.source
    try:
        password = settings.keyring().decrypt(source.pg_password) if source.pg_password is not None else None
        with contextlib.closing(connect(source, password)) as connection:
            faults = [Finding.of(error) for error in sources.faults(connection, source)]
            found = [
                *faults,
                *_rights(connection, source, password),
                *_tls(connection, source),
                *_left(connection, source),
                *_slots(connection, spec, set(ours)),
            ]
            return found if faults else [*found, *doctor_tables.examine(connection, settings, spec)]
    except psycopg.Error as error:
        return [Finding.of(broken_off(error, source))]
    except EtlError as error:
        return [Finding.of(error)]


def _rights(connection: psycopg.Connection[Any], source: Source, password: str | None) -> Iterator[Finding]:
    """A managed PostgreSQL may give the right by a role of its own; then only trying tells."""
    query = "SELECT rolname, rolreplication OR rolsuper FROM pg_roles WHERE rolname = current_user"
    ((user, may),) = connection.execute(query)
    if may:
        return
    try:
        with contextlib.closing(ReplicationStream(source, password)) as stream:
            stream.identify()
    except EtlError:
        reason = f"user {user} may not replicate"
        yield Finding(Weight.WRONG, "replication_role", _place(source), reason, f"ALTER ROLE {user} REPLICATION")


def _tls(connection: psycopg.Connection[Any], source: Source) -> Iterator[Finding]:
    if source.pg_host.startswith("/") or source.pg_host in HERE:
        return
    remedy = "set pg_tls_ca to the authority of the server (docs/security.md)"
    if not connection.pgconn.ssl_in_use:
        reason = f"the connection to {source.pg_host} is not encrypted: rows can be read on the way"
        yield Finding(Weight.RISK, "tls", _place(source), reason, f"set ssl = on in PostgreSQL; {remedy}")
    elif not source.tls["sslmode"].startswith("verify"):
        reason = f"nobody verifies that {source.pg_host} is who answers"
        yield Finding(Weight.RISK, "tls", _place(source), reason, remedy)


def _left(connection: psycopg.Connection[Any], source: Source) -> Iterator[Finding]:
    for kind, setting, left in connection.execute(_LEFT):
        if left < SPARE_MIN:
            reason = f"{left} of {setting} are left; copies and parked pipelines need one each"
            yield Finding(Weight.RISK, kind, _place(source), reason, f"raise {setting} and restart PostgreSQL")
    ((limit,),) = connection.execute("SELECT current_setting('max_slot_wal_keep_size')")
    if limit == "-1":
        reason = "max_slot_wal_keep_size has no limit: a slot that nobody reads fills the disk"
        remedy = "set it to what the disk can spare; a slot beyond it is lost, which on_slot_lost decides about"
        yield Finding(Weight.ADVICE, "wal_limit", _place(source), reason, remedy)


def _slots(connection: psycopg.Connection[Any], spec: SourceSpec, ours: set[str]) -> Iterator[Finding]:
    place = _place(spec.source)
    for name, active in connection.execute(_OURS).fetchall():
        if name not in ours and not active:
            reason = f"slot {name} is of no pipeline that is configured, and keeps WAL"
            yield Finding(Weight.RISK, "orphan_slot", place, reason, f"SELECT pg_drop_replication_slot('{name}')")
    for stream in (spec.source, *(apart(spec, pipeline).source for pipeline in spec.pipelines)):
        slot = read_slot(connection, stream.slot)
        if slot is not None and (slot.lost or slot.warning):
            remedy = "raise max_slot_wal_keep_size, or find out why it lags; a lost one: on_slot_lost of the source"
            yield Finding(Weight.RISK, "slot", place, f"slot {stream.slot}: {slot.lost or slot.warning}", remedy)


def _place(source: Source) -> str:
    return f"source {source.name}"
