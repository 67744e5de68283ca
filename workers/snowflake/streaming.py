"""Snowpipe Streaming through the real SDK: one client per landing table (a client is a pipe), one channel per handle.

The SDK starts threads on import and hangs in a forked child of a process that had imported it: it is imported here, in the actor, only. It writes
logs to stdout unless told otherwise, and `del` of a channel waits without limit: channels are always closed explicitly, with a limit.

For a local Snowflake two variables of the process must be set before the first client (SSL_CERT_FILE, AWS_ENDPOINT_URL_S3); the second would lead a
real account's uploads astray, so one actor serves either local destinations or real ones.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa

from etl_supervisor.errors import EtlError, Kind
from etl_supervisor.model.pipeline import Destination
from etl_supervisor.model.table import Table
from workers.snowflake.channel import ChannelStatus
from workers.snowflake.connection import Decrypt, host_of, is_local, load_private_key, trust_local
from workers.snowflake.failure import Saturated
from workers.snowflake.held import Held
from workers.snowflake.identifiers import Objects, quoted
from workers.snowflake.inquiry import Inquiries, InquiryError, Pipe
from workers.snowflake.ndjson import encode

os.environ.setdefault("SS_LOG_LEVEL", "error")
os.environ.setdefault("SS_LOG_TARGET", "stderr")

# What the SDK may hold of one channel before it says ReceiverSaturated. An append larger than this would be refused for ever: it is
# the longest line (limits.LINE_BYTES_MAX). Together the channels hold no more than the readers' memory budgets, encoded.
INFLIGHT_MB_PER_CHANNEL = 160
FLUSH_MS = 500  # rows wait at most so long in the SDK; a request per channel and half second is cheap
STATUS_REFRESH_SECONDS = 1  # one bulk request per client and second while somebody asks
ACCEPT_SECONDS_MAX = 1  # how long a flush is waited for; it goes on by itself
CLOSE_SECONDS = 5
# The SDK repeats what fails by itself, by default for ten hours. These are limits of ours: then the channel is invalid and is opened again, with a
# client of its own that reads the key file anew; what was not committed comes again.
REQUEST_SECONDS = 60  # one request with rows
QUESTION_SECONDS = 20  # one request without
REPEAT_SECONDS = 120  # of one request with rows: a short outage needs no new channel
REPEAT_QUESTION_SECONDS = 60
REPEAT_REFUSED_SECONDS = 5  # 401 or 403: a new key is read all the sooner

_served: list[bool] = []  # [is_local] once a destination has been opened in this process
_serving = threading.Lock()  # opens run in several threads
HELD = Held()


class Lines(list[Any]):
    """NDJSON that is ready, as the SDK's list of rows: one raw element, and the true number of rows."""

    def __init__(self, data: pa.Buffer, rows: int) -> None:
        super().__init__([msgspec.Raw(memoryview(data)[:-1])])  # the SDK ends the last line itself
        self._rows = rows

    def __len__(self) -> int:
        return self._rows


class StreamingClient:
    """The SDK's client of one landing table. All methods may block on the network."""

    def __init__(
        self, destination: Destination, objects: Objects, client: str, decrypt: Decrypt, directory: Path
    ) -> None:
        _keep_apart(destination)
        self._destination = destination
        from snowflake.ingest.streaming import StreamingIngestClient

        self._client = StreamingIngestClient.from_table(
            client,
            quoted(objects.database),
            quoted(objects.landing_schema),
            quoted(objects.landing),
            properties=_properties(destination, decrypt, directory),
        )

    def open(self, name: str, committed: str | None = None) -> tuple[Any, ChannelStatus]:
        """A channel, which fences every older owner of its name; after a failure the client is closed. `committed` is set as its token."""
        try:
            channel, status = self._client.open_channel(name, committed)
        except BaseException:
            self.close()
            raise
        return channel, _status(status)

    def statuses(self, names: list[str], inquiries: Inquiries | None) -> list[ChannelStatus]:
        """Of these channels, by one question: as of now when `inquiries` can tell, otherwise as the SDK knows."""
        if inquiries is not None:
            pipe = Pipe(self._client.db_name, self._client.schema_name, self._client.pipe_name)
            with contextlib.suppress(InquiryError):
                answers = inquiries.ask(self._destination, pipe, names)
                return [_answered(answers[name]) for name in names]
        found = self._client.get_channel_statuses(names)
        return [_status(found[name]) for name in names]

    def close(self) -> None:
        """Close it within a limit, without a flush."""
        self._client.close(wait_for_flush=False, timeout_seconds=CLOSE_SECONDS)


class StreamingChannel:
    """An open channel with a client of its own; opening fences every older owner of its name. All methods may block on the network."""

    def __init__(self, client: StreamingClient, name: str, committed: str | None = None) -> None:
        """`committed` is set as the channel's token: where another path has come to."""
        self._client = client
        self._channel, self.opened = client.open(name, committed)
        self._last: str | None = None

    def encode(self, rows: pa.RecordBatch, table: Table, generation: int, loaded_at: str) -> pa.Buffer:
        """Rows as the SDK takes them."""
        return encode(rows, table, generation, loaded_at)

    def append(self, data: pa.Buffer, rows: int, first: str, last: str) -> int:
        """Hand rows to the SDK; it has copied them when this returns. Not durable: see `status`. How many bytes they were."""
        if HELD.full(self, data.size) and not self.flush():
            raise Saturated
        self._channel.append_rows(Lines(data, rows), first, last)
        HELD.add(self, data.size)
        self._last = last
        return int(data.size)

    @property
    def whole(self) -> bool:
        """Rows are appended one by one."""
        return True

    def rehearse(self, data: Any, alive: Callable[[], bool]) -> None:
        """They have been encoded: what the SDK does with them can't be taken back."""

    def seal(self, alive: Callable[[], bool], reached: str) -> str | None:
        """The SDK has what was appended."""
        return self._last

    def flush(self) -> bool:
        """Send what was appended now, and wait a moment: whether Snowflake has accepted it all. Not durable: see `status`."""
        self._channel.initiate_flush()
        try:
            self._channel.wait_for_flush(ACCEPT_SECONDS_MAX)
        except TimeoutError:  # the SDK's own name for it
            return False
        HELD.clear(self)
        return True

    def status(self, inquiries: Inquiries | None = None) -> ChannelStatus:
        """What is committed: as of now when `inquiries` can tell, otherwise at most a second old."""
        if inquiries is not None:
            return self._client.statuses([self._channel.channel_name], inquiries)[0]
        return _status(self._channel.get_channel_status())

    def close(self, *, flush: bool, drop: bool = False) -> None:
        """Close channel and client within a limit; with `drop` Snowflake forgets the channel."""
        HELD.clear(self)
        try:
            self._channel.close(drop=drop, wait_for_flush=flush, timeout_seconds=CLOSE_SECONDS)
        finally:
            self._client.close()


def _answered(status: dict[str, Any]) -> ChannelStatus:
    return ChannelStatus(
        status["last_committed_offset_token"],
        int(status["rows_error_count"] or 0),
        status["channel_status_code"] == "SUCCESS",
        str(status["last_error_message"] or ""),
    )


def _status(status: Any) -> ChannelStatus:
    return ChannelStatus(
        status.latest_committed_offset_token,
        int(status.rows_error_count or 0),
        status.status_code == "SUCCESS",
        str(status.last_error_message or ""),
    )


def _keep_apart(destination: Destination) -> None:
    """Set the process's variables for this kind of destination; EtlError(CONFIG) when they are set for the other kind."""
    local = is_local(destination)
    with _serving:
        if _served and _served[0] is not local:
            reason = "a local Snowflake and a real account can't be served by one supervisor"
            remedy = "run a second supervisor for one of them"
            raise EtlError(Kind.CONFIG, f"destination {destination.name}", reason, remedy)
        if local:
            trust_local(destination)
            os.environ["AWS_ENDPOINT_URL_S3"] = f"https://{destination.host}"
        _served[:] = [local]


def _properties(destination: Destination, decrypt: Decrypt, directory: Path) -> dict[str, str]:
    load_private_key(destination, decrypt, directory)  # a clear error instead of the SDK's
    host = host_of(destination)
    properties = {
        "account": destination.account,
        "user": destination.user,
        "url": f"https://{host}" + ("" if ":" in host else ":443"),
        "private_key_file": str(directory / destination.private_key_path),
        "mem_throttle_by_process": "false",  # it compares with the process's own size, and fires for nothing
        "max_inflight_megabytes_per_channel": str(INFLIGHT_MB_PER_CHANNEL),
        "max_append_request_buffer_duration_ms": str(FLUSH_MS),
        "channel_status_cache_refresh_interval_seconds": str(STATUS_REFRESH_SECONDS),
        "enable_telemetry_reporting": "false",
        "data_http_timeout_seconds": str(REQUEST_SECONDS),
        "mgmt_http_timeout_seconds": str(QUESTION_SECONDS),
        "data_retry_total_backoff_seconds": str(REPEAT_SECONDS),
        "mgmt_retry_total_backoff_seconds": str(REPEAT_QUESTION_SECONDS),
        "open_channel_409_retry_total_backoff_seconds": str(REPEAT_QUESTION_SECONDS),
        "non_scoped_auth_failure_retry_total_backoff_seconds": str(REPEAT_REFUSED_SECONDS),
    }
    if destination.role:
        properties["role"] = destination.role
    if destination.private_key_passphrase is not None:
        properties["private_key_passphrase"] = decrypt(destination.private_key_passphrase)
    return properties
