"""Sources, destinations and pipelines as configured (tables of schema `app`), as plain values.

Secrets stay encrypted here (`EncryptedText`, the form they have in the database); the process that needs one decrypts it at the last moment.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from etl_supervisor.model import names
from etl_supervisor.model.apply_policy import ApplyPolicy, TablePolicy
from etl_supervisor.model.naming import Naming
from etl_supervisor.model.selection import Selection
from etl_supervisor.model.table import Table, TableName


@dataclass(frozen=True, slots=True)
class EncryptedText:
    """A secret as it is stored; `context` is bound into the encryption (table, row and column), so that it can't be moved."""

    ciphertext: str = field(repr=False)
    context: str


class PipelineStatus(StrEnum):
    """What the operator wants of a pipeline."""

    START = "START"
    PAUSE = "PAUSE"


class Transfer(StrEnum):
    """How values travel from the source: PostgreSQL's text, its binary form, or as the reader decides."""

    AUTO = "auto"
    TEXT = "text"
    BINARY = "binary"


class LoadPath(StrEnum):
    """How rows come into landing tables: Snowpipe Streaming, or Parquet files through Snowpipe or COPY INTO."""

    STREAMING = "streaming"
    SNOWPIPE = "snowpipe"
    COPY = "copy"


@dataclass(frozen=True, slots=True)
class Load:
    """A path, and the size and age at which a file is made of what has come (bytes of Arrow in memory; seconds)."""

    path: LoadPath = LoadPath.STREAMING
    file_bytes_max: int = 1 << 30
    file_seconds_max: float = 60.0


class OnSlotLost(StrEnum):
    """What becomes of a source whose slot can't continue: a person is asked, or everything is copied again under a new one."""

    ASK = "ask"
    RESYNC = "resync"


@dataclass(frozen=True, slots=True)
class PipelineName:
    """A pipeline, where nothing more of it matters."""

    id: int
    name: str


@dataclass(frozen=True, slots=True)
class Source:
    """One PostgreSQL database that changes are read from. `publication_name` may be a comma-separated list.

    `pg_tls_mode` is `auto` or an sslmode of libpq (see `tls`). `heartbeat_seconds` is how often a quiet source gets a WAL message (0: never);
    `primary_url` (a libpq connection string) is the primary of a source that is a standby. `parked` is the pipeline that streams from a slot of its
    own (see `model.parking`); None for the shared stream.
    """

    id: int
    name: str
    pg_host: str
    pg_port: int
    pg_database: str
    pg_username: str
    pg_password: EncryptedText | None
    pg_tls_mode: str
    pg_tls_ca: str | None
    publication_name: str
    replication_id: int
    stream_in_progress: bool = True
    transfer: Transfer = Transfer.AUTO
    heartbeat_seconds: float = 60.0
    primary_url: EncryptedText | None = None
    slot_failover: bool = False
    on_slot_lost: OnSlotLost = OnSlotLost.ASK
    pg_channel_binding: str = "prefer"
    parked: PipelineName | None = None

    @property
    def tls(self) -> dict[str, str]:
        """libpq's parameters: with an authority the server is verified unless `pg_tls_mode` says otherwise."""
        mode = self.pg_tls_mode if self.pg_tls_mode != "auto" else "verify-full" if self.pg_tls_ca else "prefer"
        authority = {"sslrootcert": self.pg_tls_ca} if self.pg_tls_ca else {}
        return {"sslmode": mode, "channel_binding": self.pg_channel_binding, **authority}

    @property
    def slot(self) -> str:
        """The replication slot of this stream."""
        return names.slot(self.replication_id, self.parked.id if self.parked else None)

    @property
    def stream(self) -> str:
        """The stream's name: of its reader, and of its position in the state store."""
        return f"{self.name}@{self.parked.name}" if self.parked else self.name


@dataclass(frozen=True, slots=True)
class Destination:
    """One Snowflake database that changes are brought to.

    `host` is the account host, or `127.0.0.1:PORT` of a local Snowflake; `settings` holds what has no column of its own
    (`ca_file` of a local Snowflake). `naming` is what tables and columns are called there; `copy_comments`: they
    say what PostgreSQL's comments say.
    """

    id: int
    name: str
    type: str
    account: str
    user: str
    database: str
    schema: str
    warehouse: str | None
    role: str | None
    private_key_path: str
    private_key_passphrase: EncryptedText | None
    host: str | None
    landing_schema: str
    apply_interval_seconds: float
    settings: dict[str, str] = field(default_factory=dict)
    naming: Naming = field(default_factory=Naming)
    copy_comments: bool = False


@dataclass(frozen=True, slots=True)
class Pipeline:
    """One source into one destination, with its batching and retry policy.

    `load` is how changes travel (streaming: over `channels_per_table` channels), `copy_load` the rows of first copies; `policy` is how its tables are
    applied (`exceptions`: in ways of their own); `selection` is which tables it takes and what of their columns.
    `retries` counts how often a person has asked for held tables to be tried again: the reader starts again when it rises.
    """

    id: int
    name: str
    source_id: int
    destination: Destination
    status: PipelineStatus
    batch_max_size: int
    batch_max_fill_ms: int
    table_error_retry_delay_ms: int
    table_error_retry_max_attempts: int
    max_table_sync_workers: int
    load: Load = field(default_factory=Load)
    copy_load: Load = field(default_factory=Load)
    policy: ApplyPolicy = field(default_factory=ApplyPolicy)
    exceptions: tuple[TablePolicy, ...] = ()
    selection: Selection = field(default_factory=Selection)
    retries: int = 0
    channels_per_table: int = 1

    def channels_of(self, table: Table) -> int:
        """How many channels the stream of a table gets in a generation that begins: files need none, and rows without a key have no hash."""
        return self.channels_per_table if self.load.path is LoadPath.STREAMING and table.key else 1

    def policy_of(self, table: TableName) -> ApplyPolicy:
        """How a table is applied."""
        return next((own.policy for own in self.exceptions if own.table == table), self.policy)


@dataclass(frozen=True, slots=True)
class SourceSpec:
    """What one reader has to do: a source and its started pipelines (never empty); `paused` are the others."""

    source: Source
    pipelines: tuple[Pipeline, ...]
    paused: tuple[PipelineName, ...] = ()
