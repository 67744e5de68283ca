"""Uses one door of a local Snowflake, in a process of its own (the environment's proxies are read once): `python -m tests.support.doors DOOR
DESTINATION`, as JSON. Ends with 0 when it was answered."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa

from etl_supervisor.model.pipeline import Destination
from tests.support.histories import opening
from workers.snowflake.connection import connect, trust_local
from workers.snowflake.identifiers import Objects
from workers.snowflake.inquiry import Inquiries, InquiryError, Pipe
from workers.snowflake.loaders import snowpipe
from workers.snowflake.stage import Stage

FILE_ROWS = 20_000  # more than the SDK sends without a file


def decrypt(_: object) -> str:
    """There is no passphrase."""
    return ""


def use(door: str, it: Destination) -> None:
    """One request or two."""
    objects = Objects(it.database, it.schema, it.landing_schema, "T", "LANDING_T")
    if door in ("sql", "put"):
        session = connect(it, decrypt, Path(), purpose="test")
        with session.cursor() as cursor, tempfile.TemporaryDirectory() as folder:
            cursor.execute("SELECT 1")
            if door == "put":
                file = Path(folder) / "f.txt"
                file.write_text("text")
                stage = f'"{it.database}"."{it.landing_schema}"."S"'
                cursor.execute(f"CREATE STAGE {stage}")
                cursor.execute(f"PUT 'file://{file}' @{stage} AUTO_COMPRESS = FALSE")
        session.close()
    elif door == "snowpipe":
        it_opened = opening(it)
        stage = Stage(it_opened)
        try:
            snowpipe(it_opened, stage, decrypt, Path()).renew(stage.qualified(stage.pipe)).get_history(60)
        except Exception as error:
            if getattr(error, "http_error_code", None) != 404:  # there is no such pipe: that is an answer
                raise
    elif door == "inquiry":
        trust_local(it)  # as the first session or channel does
        try:
            pipe = Pipe(f'"{it.database}"', f'"{it.landing_schema}"', '"LANDING_T"-STREAMING')
            Inquiries(decrypt, Path()).ask(it, pipe, "c")
        except InquiryError as error:
            if str(error) != "KeyError":  # there is no such channel: that is an answer
                raise
    else:
        append(it, objects, FILE_ROWS if door == "streaming file" else 1)


def append(it: Destination, objects: Objects, rows: int) -> None:
    """Rows until they are committed."""
    from workers.snowflake.streaming import StreamingChannel, StreamingClient

    channel = StreamingChannel(StreamingClient(it, objects, "one", decrypt, Path()), "c")
    lines = b"".join(b'{"ID":%d,"S":"%s"}\n' % (number, b"x" * 200) for number in range(rows))
    channel.append(pa.py_buffer(lines), rows, "T1", "T2")
    deadline = time.monotonic() + 30
    while channel.status().committed != "T2":
        assert time.monotonic() < deadline, "not committed"
        time.sleep(0.1)
    channel.close(flush=False)


if __name__ == "__main__":
    use(sys.argv[1], Destination(**json.loads(sys.argv[2])))
