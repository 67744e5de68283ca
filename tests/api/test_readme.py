"""The commands of README.md's section "By REST" do what it says: they are taken from the page as they are, and run by bash with curl against a whole
deployment. Only the first block, what is the reader's own, is replaced."""

import re
import shlex
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from etl_supervisor.embedded.ports import choose_port
from tests.support import least
from tests.support.fix_deployment import Deployment, wait_for
from tests.support.fix_local_snowflake import sql_session

README = Path(__file__).parents[2] / "README.md"
ASSIGNED = re.compile(r"([A-Z_]+)=")
DATABASE = "ANALYTICS"  # as the page has it


class Shell:
    """One bash that runs a block after the other, and stops at the first command that fails."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def run(self, block: str) -> str:
        """What it has printed."""
        mark = uuid.uuid4().hex
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{block}\necho {mark}\n")
        self._process.stdin.flush()
        lines: list[str] = []
        for line in self._process.stdout:
            if line.strip() == mark:
                return "".join(lines)
            lines.append(line)
        raise AssertionError(f"bash ended in {block!r}: {''.join(lines)}")


@contextmanager
def bash(folder: Path, environment: dict[str, str]) -> Iterator[Shell]:
    command = ["bash", "--noprofile", "--norc", "-euo", "pipefail"]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, text=True, cwd=folder, env=environment
    ) as process:
        try:
            yield Shell(process)
        finally:
            process.kill()


def blocks() -> list[str]:
    """The fenced blocks of the section."""
    section = README.read_text().split("\n## By REST\n")[1].split("\n## ")[0]
    return re.findall(r"^```bash\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)


@pytest.mark.slow
def test_the_commands_of_the_readme_bring_rows_into_snowflake(deploy: Deployment) -> None:
    assert shutil.which("curl"), "curl is missing on this machine: the commands of README.md can't be tried"
    deploy.source.execute(
        "create table orders (id int primary key, note text); insert into orders select n, 'o' || n from generate_series(1, 3) n;"
        " create publication etl for all tables"
    )
    with sql_session(replace(deploy.destination, database=DATABASE)) as session, session.cursor() as cursor:
        for text in least.statements("snowflake_role.sql"):  # the page has the script's names, but for one
            cursor.execute(least.renamed(text, {"RAW_DATA": "SHOP"}))
    address = f"127.0.0.1:{choose_port()}"
    (deploy.folder / ".venv").symlink_to(sys.prefix)
    deploy.start(API_ADDR=address, API_KEY_DIRECTORY="/")
    wait_for("the API", lambda: answers(f"http://{address}/health"))
    own = values(deploy, f"http://{address}/api/v1")
    theirs, *commands, pause = blocks()
    assert set(ASSIGNED.findall(theirs)) == set(own)  # the test gives what the page asks for, and nothing else
    with bash(deploy.folder, {**deploy.environment, "API_ADDR": address}) as shell:
        shell.run("\n".join(f"export {name}={shlex.quote(value)}" for name, value in own.items()))
        told = [shell.run(block) for block in commands]
        assert '"ok":true' in told[-1]
        assert '"status":"START"' in told[-1]
        assert '"tables":{"READY":1}' in told[-1]
        assert re.search(r"│ 3 ", told[-1]), told[-1]
        deploy.source.execute("insert into orders values (4, 'o4'); delete from orders where id = 1")
        wait_for("the change to arrive", lambda: orders(deploy) == [(2, "o2"), (3, "o3"), (4, "o4")])
        assert '"status":"PAUSE"' in shell.run(pause)
    wait_for("the reader to end", lambda: "etl-reader-shop" not in deploy.children())
    assert deploy.stop() == 0


def values(deploy: Deployment, api: str) -> dict[str, str]:
    """What the page's first block asks for, of this deployment."""
    source = least.source(deploy.source)
    return {
        "API": api,
        "PGHOST": source["pg_host"],
        "PGPORT": str(source["pg_port"]),
        "PGDATABASE": source["pg_database"],
        "PGUSER": source["pg_username"],
        "PGPASSWORD": source["pg_password"],
        "SNOWFLAKE_HOST": deploy.server.host,
        "SNOWFLAKE_CA": str(deploy.server.bundle_file),
        "SNOWFLAKE_KEY": str(deploy.server.key_file),
    }


def answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 200
    except httpx.TransportError:
        return False


def orders(deploy: Deployment) -> list[tuple[int, str]]:
    """The target, by the connector."""
    with sql_session(deploy.destination) as session, session.cursor() as cursor:
        found = cursor.execute(f"SELECT ID, NOTE FROM {DATABASE}.SHOP.ORDERS ORDER BY ID").fetchall()
        return [(int(key), str(note)) for key, note in found]
