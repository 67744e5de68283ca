"""What should run: every source with at least one started pipeline, in one snapshot of the config database.

A secret that somebody wrote in clear (an INSERT in psql) is encrypted first. A row that is wrong leaves its pipeline out and says so; the
others run. A failure to read raises, and the caller changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.rows import dict_row

from etl_supervisor.errors import EtlError, Kind
from etl_supervisor.model import names
from etl_supervisor.model.apply_policy import ApplyMode, ApplyPolicy, Deletes, TablePolicy
from etl_supervisor.model.naming import IdentifierCase, Naming, SchemaMapping
from etl_supervisor.model.pipeline import (
    Destination,
    EncryptedText,
    Load,
    LoadPath,
    OnSlotLost,
    Pipeline,
    PipelineName,
    PipelineStatus,
    Source,
    SourceSpec,
    Transfer,
)
from etl_supervisor.model.table import TableName
from etl_supervisor.repository.connection import connect, trouble
from etl_supervisor.repository.secrets import context, encrypt_in_place
from etl_supervisor.repository.selecting import selection

if TYPE_CHECKING:
    from etl_supervisor.config.settings import Settings

APPLY_COLUMNS = frozenset(
    {"apply", "apply_delete", "apply_history", "apply_interval_seconds_max", "landing_retention_hours"}
)
TABLE_SETTINGS = APPLY_COLUMNS | {"cluster_by"}  # of one table, in apply_tables
DESTINATION_TYPES = frozenset({"snowflake"})

# One that was deleted is as good as paused until its grace is over.
_PAUSED = """
SELECT id, name, source_id FROM app.pipelines WHERE status <> 'START'
UNION ALL SELECT pipeline_id, pipeline, (source->>'id')::bigint FROM app.removed
ORDER BY id
"""

_NAMED_AGAIN = "SELECT p.id FROM app.pipelines p JOIN app.removed r ON r.pipeline = p.name AND r.pipeline_id <> p.id"


# Each change of a row gives it another xmin, whoever makes it: rows are compared where they are, and read only when one has changed.
_READ = (("sources", "id"), ("destinations", "id"), ("pipelines", "id"), ("removed", "pipeline_id"))
_MARK = "SELECT md5(concat_ws('/', {})) AS mark".format(
    ", ".join(
        f"coalesce((SELECT string_agg({key} || ':' || xmin, ',' ORDER BY {key}) FROM app.{table}), '')"
        for table, key in _READ
    )
)


@dataclass(frozen=True, slots=True)
class Loaded:
    """What should run, and what is wrong with the rest. `mark` is another one when a row of it has changed."""

    specs: tuple[SourceSpec, ...]
    troubles: tuple[EtlError, ...]
    mark: str = ""


def load(settings: Settings, known: Loaded | None = None) -> Loaded:
    """Read the configuration; `known` again while no row has changed. EtlError(CONFIG_DATABASE) when it can't be read."""
    try:
        with connect(settings.config_dsn(), row_factory=dict_row) as connection:
            if known is not None and _mark(connection) == known.mark:
                return known
            encrypt_in_place(connection, settings.keyring())
            connection.commit()
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            mark = _mark(connection)
            return replace(_assemble(connection, can_hash=settings.masking_secret is not None), mark=mark)
    except psycopg.Error as error:
        raise trouble(error) from None


def slots(settings: Settings) -> set[str]:
    """The slots that the configured sources and pipelines have or may have, started or not."""
    sql_ = "SELECT s.replication_id, p.id FROM app.sources s LEFT JOIN app.pipelines p ON p.source_id = s.id"
    try:
        with connect(settings.config_dsn()) as connection:
            rows = connection.execute(sql_).fetchall()
    except psycopg.Error as error:
        raise trouble(error) from None
    return {names.slot(source, pipeline) for source, own in rows for pipeline in (None, own)}


def _mark(connection: psycopg.Connection[Any]) -> str:
    (row,) = connection.execute(_MARK.encode()).fetchall()
    return str(row["mark"])


def _assemble(connection: psycopg.Connection[Any], *, can_hash: bool) -> Loaded:
    troubles: list[EtlError] = []
    pipelines: dict[int, list[Pipeline]] = {}
    paused: dict[int, list[PipelineName]] = {}
    rows = connection.execute(
        "SELECT p.*, row_to_json(d) AS destination FROM app.pipelines p JOIN app.destinations d ON d.id = p.destination_id"
        " WHERE p.status = 'START' ORDER BY p.id"
    ).fetchall()
    early = {row["id"] for row in connection.execute(_NAMED_AGAIN)}
    for row in rows:
        if row["id"] in early:
            reason = "an older pipeline of this name was deleted and is not cleaned up yet"
            troubles.append(EtlError(Kind.CONFIG, f"pipeline {row['name']}", reason, "it starts by itself after that"))
            continue
        try:
            found = pipeline_of(row, can_hash=can_hash)
        except EtlError as error:
            troubles.append(error)
            paused.setdefault(row["source_id"], []).append(PipelineName(row["id"], row["name"]))
        else:
            pipelines.setdefault(found.source_id, []).append(found)
    sources = connection.execute(
        "SELECT * FROM app.sources WHERE id = ANY(%s) ORDER BY id", [list(pipelines)]
    ).fetchall()
    for row in connection.execute(_PAUSED):
        paused.setdefault(row["source_id"], []).append(PipelineName(row["id"], row["name"]))
    specs = tuple(
        SourceSpec(source_of(row), tuple(pipelines[row["id"]]), tuple(paused.get(row["id"], ()))) for row in sources
    )
    return Loaded(specs, tuple(troubles))


def source_of(row: dict[str, Any]) -> Source:
    """A row of app.sources."""
    return Source(
        id=row["id"],
        name=row["name"],
        pg_host=row["pg_host"],
        pg_port=row["pg_port"],
        pg_database=row["pg_database"],
        pg_username=row["pg_username"],
        pg_password=_secret("sources", row, "pg_password"),
        pg_tls_mode=row["pg_tls_mode"],
        pg_tls_ca=row["pg_tls_ca"],
        publication_name=row["publication_name"],
        replication_id=row["replication_id"],
        stream_in_progress=row["stream_in_progress"],
        transfer=Transfer(row["transfer"]),
        heartbeat_seconds=row["heartbeat_seconds"],
        primary_url=_secret("sources", row, "primary_url"),
        slot_failover=row["slot_failover"],
        on_slot_lost=OnSlotLost(row["on_slot_lost"]),
        pg_channel_binding=row["pg_channel_binding"],
    )


def pipeline_of(row: dict[str, Any], *, can_hash: bool) -> Pipeline:
    """A row of app.pipelines with its `destination`. EtlError(CONFIG) for settings that do not go together.

    `can_hash`: there is a secret to hash with."""
    return Pipeline(
        id=row["id"],
        name=row["name"],
        source_id=row["source_id"],
        destination=destination(row["destination"]),
        status=PipelineStatus(row["status"]),
        batch_max_size=row["batch_max_size"],
        batch_max_fill_ms=row["batch_max_fill_ms"],
        table_error_retry_delay_ms=row["table_error_retry_delay_ms"],
        table_error_retry_max_attempts=row["table_error_retry_max_attempts"],
        max_table_sync_workers=row["max_table_sync_workers"],
        load=_load(row, "load_path"),
        copy_load=_load(row, "copy_load_path"),
        policy=_policy(row, {}, f"pipeline {row['name']}"),
        exceptions=tuple(_exceptions(row)),
        retries=row["retries"],
        channels_per_table=row["channels_per_table"],
        selection=selection(row, can_hash=can_hash),
    )


def _load(row: dict[str, Any], path: str) -> Load:
    return Load(LoadPath(row[path]), row["file_max_size_mb"] << 20, row["file_max_age_seconds"])


def _exceptions(row: dict[str, Any]) -> Iterator[TablePolicy]:
    """The tables with settings of their own: {"<schema>.<table>": {column of app.pipelines: value}}."""
    for name, own in row["apply_tables"].items():
        place = f"pipeline {row['name']}, table {name}"
        schema, dot, table = name.partition(".")
        unknown = set(own) - TABLE_SETTINGS if isinstance(own, dict) else {"a value that is no object"}
        if unknown or not (schema and dot and table):
            reason = f"apply_tables can't be read: {', '.join(sorted(unknown)) or 'the name has no schema'}"
            remedy = f'write {{"<schema>.<table>": {{…}}}} with: {", ".join(sorted(TABLE_SETTINGS))}'
            raise EtlError(Kind.CONFIG, place, reason, remedy)
        yield TablePolicy(TableName(schema, table), _policy(row, own, place))


def _columns(wanted: Any) -> tuple[str, ...]:
    """Names of columns; ValueError for anything else."""
    if not isinstance(wanted, list) or not all(isinstance(name, str) and name for name in wanted):
        raise ValueError("cluster_by is no list of column names")
    return tuple(wanted)


def _policy(row: dict[str, Any], own: dict[str, Any], place: str) -> ApplyPolicy:
    """How the tables of a pipeline (or one of them, with settings of its `own`) are applied."""
    wanted = {column: own.get(column, row[column]) for column in APPLY_COLUMNS}
    destination_row = row["destination"]
    shortest = float(destination_row["snowflake_apply_interval_seconds"])
    retention = wanted["landing_retention_hours"]
    try:
        policy = ApplyPolicy(
            mode=ApplyMode(wanted["apply"]),
            delete=Deletes(wanted["apply_delete"]),
            history=bool(wanted["apply_history"]),
            interval_seconds_min=shortest,
            interval_seconds_max=max(shortest, float(wanted["apply_interval_seconds_max"])),
            retention_hours=None if retention is None else float(retention),
            schedule_minutes=destination_row["snowflake_task_schedule_minutes"],
            cluster_by=_columns(own.get("cluster_by", [])),
            together=row["consistency"] == "transaction",
        )
    except (TypeError, ValueError) as error:
        raise EtlError(Kind.CONFIG, place, str(error), "see docs/configuration.md, Pipelines") from None
    if policy.problem:
        raise EtlError(Kind.CONFIG, place, policy.problem, policy.remedy)
    return policy


def destination(row: dict[str, Any]) -> Destination:
    """A row of app.destinations. EtlError(CONFIG) for a type that this program has no worker for."""
    if row["destination_type"] not in DESTINATION_TYPES:
        reason = f"destination_type {row['destination_type']} is not known"
        remedy = f"use one of: {', '.join(sorted(DESTINATION_TYPES))}"
        raise EtlError(Kind.CONFIG, f"destination {row['name']}", reason, remedy)
    return Destination(
        id=row["id"],
        name=row["name"],
        type=row["destination_type"],
        account=row["snowflake_account"],
        user=row["snowflake_user"],
        database=row["snowflake_database"],
        schema=row["snowflake_schema"],
        warehouse=row["snowflake_warehouse"],
        role=row["snowflake_role"],
        private_key_path=row["snowflake_private_key_path"],
        private_key_passphrase=_secret("destinations", row, "snowflake_private_key_passphrase"),
        host=row["snowflake_host"],
        landing_schema=row["snowflake_landing_schema"],
        apply_interval_seconds=float(row["snowflake_apply_interval_seconds"]),
        settings={key: str(value) for key, value in row["settings"].items()},
        copy_comments=row["copy_comments"],
        naming=Naming(IdentifierCase(row["identifier_case"]), SchemaMapping(row["schema_mapping"])),
    )


def _secret(table: str, row: dict[str, Any], column: str) -> EncryptedText | None:
    stored = row[column]
    return None if stored is None else EncryptedText(stored, context(table, row["name"], column))
