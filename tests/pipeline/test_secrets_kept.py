"""Secrets of a deployment: in no title, argument, log or core dump; and rotated while rows stream."""

from __future__ import annotations

import os
import resource
import signal
import stat
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote, urlsplit

import httpx
import pytest
from psycopg.rows import dict_row

from etl_supervisor.api import access
from etl_supervisor.api.caller import Role
from etl_supervisor.config.secrets import Keyring
from etl_supervisor.embedded.ports import choose_port
from etl_supervisor.ipc import scratch
from tests.support import least
from tests.support.fix_api import CONNECT_RETRIES
from tests.support.fix_deployment import SECRET_KEY, Deployment, wait_for
from tests.support.keys import write_key

NEW_KEY = "another secret key of a test, as long as it must be"

PASSPHRASE, HOOK = "open sesame 81b2", "/services/hook-token-4f1c"
WRONG = "wrong-secret-9e3a"  # what is tried and refused must not show either

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def begin(deploy: Deployment) -> None:
    deploy.source.execute("create table t (k int primary key, v text); create publication p for all tables")
    deploy.source.execute("insert into t select g, 'x' from generate_series(1, 100) g")
    deploy.add("one")


def encrypt_key(deploy: Deployment) -> None:
    """From now on the destination's key has a passphrase, written by SQL as an operator may."""
    public = write_key(Path(deploy.allowed.private_key_path), PASSPHRASE)
    user = deploy.allowed.user
    least.administer(deploy.destination, user, f"ALTER USER {user} SET RSA_PUBLIC_KEY = '{public}'")
    deploy.config.execute("update app.destinations set snowflake_private_key_passphrase = %s", PASSPHRASE)


def secrets_of(deploy: Deployment) -> dict[str, str]:
    """What must show nowhere."""
    redis = urlsplit(deploy.environment["REDIS_URL"]).password
    assert redis
    key_lines = Path(deploy.allowed.private_key_path).read_text().splitlines()
    return {
        "password of the source and the config database": least.PASSWORD,
        "the same in a URL": quote(least.PASSWORD),
        "SECRET_KEY": SECRET_KEY,
        "password of the state store": redis,
        "passphrase": PASSPHRASE,
        "private key": key_lines[1],
        "webhook": HOOK,
        "what was refused": WRONG,
    }


def shown_in(text: str, secrets: dict[str, str]) -> list[str]:
    """The names of those that are in a text."""
    return [name for name, secret in secrets.items() if secret in text]


def of_process(pid: int, *files: str) -> str:
    return "".join(Path(f"/proc/{pid}/{file}").read_text() for file in files)


def test_secrets_show_nowhere_and_a_crash_leaves_no_core(deploy: Deployment) -> None:
    begin(deploy)
    encrypt_key(deploy)
    deploy.config.execute("insert into app.settings (alert_wal_url) values (%s)", f"http://127.0.0.1:9{HOOK}")
    with deploy.config.connect(row_factory=dict_row) as connection:
        key = access.create(connection, "a test", Role.ADMIN, None, None).key
    secrets = {**secrets_of(deploy), "API key": key}
    address = f"127.0.0.1:{choose_port()}"
    before = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (before[1], before[1]))
    try:
        deploy.start(LOG_LEVEL="DEBUG", LOG_FILE="logs/app.log", API_ADDR=address)
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, before)
    deploy.ready("one")
    assert deploy.supervisor is not None
    stored = ("password of the source and the config database", "passphrase", "webhook", "API key", "private key")
    for name, pid in {"supervisor": deploy.supervisor.pid, **deploy.settled()}.items():
        shown = of_process(pid, "cmdline", "comm", "limits")
        assert shown_in(shown, secrets) == [], name
        assert shown.split("Max core file size")[1].split()[:2] == ["0", "0"], name
        inherited = of_process(
            pid, "environ"
        )  # where it was begun with DATABASE_URL, REDIS_URL and SECRET_KEY; no more
        assert shown_in(inherited, {word: secrets[word] for word in stored}) == [], name
    # The API is its own process: it may listen later than the tables are READY.
    calls = httpx.HTTPTransport(retries=CONNECT_RETRIES)
    bearer = {"Authorization": f"Bearer {key}"}
    with httpx.Client(base_url=f"http://{address}", headers=bearer, timeout=30, transport=calls) as api:
        paths = ["sources", "destinations", "pipelines", "settings", "audit-log", "api-keys"]
        answers = [api.get(f"/api/v1/{path}") for path in paths]
        answers += [api.post("/api/v1/sources/1/test"), api.post("/api/v1/destinations/1/test"), api.get("/metrics")]
        answers += [httpx.get(f"http://{address}/api/v1/sources", headers={"Authorization": f"Bearer {key}x"})]
    assert {answer.status_code for answer in answers[:5]} == {200}, answers
    assert shown_in("".join(answer.text for answer in answers), secrets) == []
    reader = deploy.children()["etl-reader-one"]
    os.kill(reader, signal.SIGSEGV)
    wait_for("a new reader", lambda: deploy.children().get("etl-reader-one", reader) != reader)
    deploy.source.execute("insert into t values (1000, 'later')")
    deploy.caught_up("one")
    deploy.same("one", t=("k",))
    assert not [path for path in deploy.folder.rglob("*") if path.name.startswith("core")]
    directory = Path(_metrics_of(deploy.children()))
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    deploy.config.execute("update app.sources set pg_password = %s", WRONG)
    wait_for("the refused login", lambda: '"source_auth"' in deploy.log)
    assert deploy.stop() == 0
    for text in (deploy.log, (deploy.folder / "logs" / "app.log").read_text()):
        assert shown_in(text, secrets) == []


def test_secrets_that_are_wrong_and_servers_that_are_refused_are_told_without_them(deploy: Deployment) -> None:
    begin(deploy)
    encrypt_key(deploy)
    secrets, good = secrets_of(deploy), dict(deploy.environment)

    def told(*words: str, **environment: str) -> str:
        command = [sys.executable, "-m", "etl_supervisor.cli.main", *(words or ("doctor",))]
        with_these = {**good, "LOG_LEVEL": "DEBUG", **environment}
        done = subprocess.run(command, env=with_these, cwd=deploy.folder, capture_output=True, text=True)
        assert shown_in(done.stdout + done.stderr, secrets) == []
        return " ".join((done.stdout + done.stderr).split())

    redis, database = good["REDIS_URL"], good["DATABASE_URL"]
    password, quoted = secrets["password of the state store"], quote(least.PASSWORD)
    assert "config_database" in told(DATABASE_URL=database.replace(quoted, WRONG))
    assert "config_database" in told(DATABASE_URL=f"{database}?sslmode=require")
    assert "config at Redis: the server refuses the password" in told(
        "status", REDIS_URL=redis.replace(password, WRONG)
    )
    assert " at Redis: " in told("status", REDIS_URL=redis.replace("redis://", "rediss://"))
    for column, value, kind in (
        ("sources set pg_password", WRONG, "source_auth"),
        ("sources set pg_password", least.PASSWORD, ""),
        ("sources set pg_tls_mode", "require", "source_setup"),
        ("destinations set snowflake_private_key_passphrase", WRONG, "passphrase is wrong"),
    ):
        deploy.config.execute(f"update app.{column} = %s", value)
        assert kind in told(), column
    Path(deploy.allowed.private_key_path).write_text(f"-----BEGIN PRIVATE KEY-----\n{WRONG}\n")
    assert "no PKCS#8 PEM key" in told()


def _metrics_of(children: dict[str, int]) -> str:
    """The directory in which a child keeps its metrics, by the files that it has mapped."""
    maps = "".join(Path(f"/proc/{pid}/maps").read_text() for pid in children.values())
    line = next(line for line in maps.splitlines() if scratch.METRICS in line)
    return line[line.index("/") :].rpartition("/")[0]


def test_secrets_are_rotated_while_rows_stream(deploy: Deployment) -> None:
    begin(deploy)
    deploy.start()
    deploy.ready("one")
    assert deploy.stop() == 0
    deploy.environment |= {"SECRET_KEY": NEW_KEY, "SECRET_KEY_PREVIOUS": SECRET_KEY}
    deploy.start()
    deploy.source.execute("insert into t select g, 'y' from generate_series(101, 200) g")
    deploy.caught_up("one")
    command = [sys.executable, "-m", "etl_supervisor.cli.main", "rotate-secrets"]
    done = subprocess.run(command, env=deploy.environment, cwd=deploy.folder, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "1 encrypted anew, 0 current already, 0 left alone\n")
    ((stored,),) = deploy.config.execute("select pg_password from app.sources")
    assert Keyring(NEW_KEY).is_current(stored)
    deploy.source.execute("insert into t select g, 'z' from generate_series(201, 300) g")
    deploy.caught_up("one")
    deploy.kill()
    del deploy.environment["SECRET_KEY_PREVIOUS"]
    deploy.start()
    deploy.source.execute("delete from t where k < 50")
    deploy.caught_up("one")
    deploy.same("one", t=("k",))
    assert deploy.stop() == 0
