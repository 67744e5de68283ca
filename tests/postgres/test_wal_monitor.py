"""The WAL monitor on a real PostgreSQL, and its alerts at a real receiver."""

from __future__ import annotations

import concurrent.futures
import socket
import threading
import time
from importlib import resources
from pathlib import Path
from typing import Any

import alembic.command
import pytest
import sqlalchemy
from alembic.config import Config

from etl_supervisor.config.settings import Settings
from etl_supervisor.config.settings import load as load_settings
from etl_supervisor.errors import EtlError, Kind
from etl_supervisor.monitor.delivery import Delivery
from etl_supervisor.monitor.wal import WalMonitor
from etl_supervisor.repository.migrations import migrate
from etl_supervisor.repository.wal import watched
from etl_supervisor.repository.write import upsert
from migrations.app.versions import wal_monitor
from tests.support import least
from tests.support.fix_deployment import wait_for
from tests.support.fix_postgres import Database
from tests.support.receiver import http_receiver, mail_receiver
from workers.reader.measure import measure

SECRET = "0123456789abcdef0123456789abcdef"


def made(folder: Path, config: Database, **environment: str) -> Settings:
    settings = load_settings(
        folder,
        {
            "DATABASE_URL": least.config_role(config),
            "SECRET_KEY": SECRET,
            "TIME_CHECK_NOTIFICATION": "0",
            **environment,
        },
    )
    migrate(settings)
    return settings


def add_source(settings: Settings, config: Database, database: Database, name: str = "shop", **changes: Any) -> int:
    with config.connect() as connection:
        return upsert(connection, settings.keyring(), "sources", name=name, **least.source(database), **changes)


def start_pipeline(settings: Settings, config: Database, source_id: int) -> None:
    names = ("account", "user", "database", "schema", "private_key_path")
    with config.connect() as connection:
        there = upsert(
            connection, settings.keyring(), "destinations", name="d", **{f"snowflake_{n}": "x" for n in names}
        )
        ends = {"source_id": source_id, "destination_id": there}
        upsert(connection, settings.keyring(), "pipelines", name="pipe", status="START", **ends)


def make_slot(database: Database, name: str) -> None:
    database.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", name)


def write_wal(database: Database, megabytes: int) -> None:
    for _ in range(megabytes):
        database.execute("select pg_logical_emit_message(true, 'test', repeat('x', 1 << 20))")


def look(monitor: WalMonitor, config: Database) -> None:
    """One round, to its end."""
    ((before,),) = config.execute("select count(*) from app.wal_metrics")
    monitor.begin_round()
    wait_for("a measurement", lambda: config.execute("select count(*) from app.wal_metrics")[0][0] > before)
    wait_for("the round's end", lambda: not monitor._under_way)


def tried(_channel: str, _result: str) -> None:
    return


def test_what_a_slot_keeps_is_measured_not_the_size_of_the_directory(
    database: Database, second_database: Database, tmp_path: Path
) -> None:
    settings = made(tmp_path, second_database)
    source_id = add_source(settings, second_database, database)
    make_slot(database, f"etl_stream_{source_id}")
    make_slot(database, f"etl_stream_{source_id}_p7")
    make_slot(database, f"etl_stream_{source_id}0")  # another source's
    monitor = WalMonitor(settings)
    look(monitor, second_database)
    write_wal(database, 3)
    look(monitor, second_database)
    rows = second_database.execute(
        "select slot_name, retained_bytes, lag_bytes, lag_seconds, growth_bytes_per_second, wal_status, safe_wal_bytes"
        " from app.wal_metrics where source_id = %s order by id",
        source_id,
    )
    slots = [f"etl_stream_{source_id}", f"etl_stream_{source_id}_p7"]
    assert [row[0] for row in rows] == slots * 2
    for before, after in zip(rows[:2], rows[2:], strict=True):
        assert after[1] - before[1] >= 3 << 20
        assert after[2] >= 3 << 20
        assert after[4] > 0
        assert after[5:] == ("reserved", None)
    ((psql,),) = database.execute(
        "select pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint from pg_replication_slots where slot_name = %s",
        slots[0],
    )
    assert rows[2][1] <= psql
    wal = monitor.newest["shop"]
    assert [measured.slot for measured, _ in wal.slots] == slots
    monitor.close()


def test_alerts_reach_a_webhook_with_exactly_the_contracts_body(
    database: Database, second_database: Database, tmp_path: Path
) -> None:
    with http_receiver() as there:
        settings = made(tmp_path, second_database, ALERT_WAL_URL=f"http://127.0.0.1:{there.port}/hook?secret=geheim")
        source_id = add_source(settings, second_database, database, warning_wal_mb=2, danger_wal_mb=4)
        make_slot(database, f"etl_stream_{source_id}")
        monitor, delivery = WalMonitor(settings), Delivery(settings, tried)
        look(monitor, second_database)
        assert delivery.deliver() == 0
        write_wal(database, 3)
        look(monitor, second_database)
        look(monitor, second_database)  # told once
        there.answers = [500, 404]
        assert delivery.deliver() == 0
        assert second_database.execute("select attempts, last_error from app.alerts") == [(1, "127.0.0.1 answered 500")]
        assert delivery.deliver() == 0
        assert there.answers == [404]  # not due yet
        write_wal(database, 2)
        look(monitor, second_database)
        database.execute("select pg_replication_slot_advance(%s, pg_current_wal_lsn())", f"etl_stream_{source_id}")
        database.execute("checkpoint; select pg_log_standby_snapshot()")
        for _ in range(2):  # the advance moves restart_lsn only to what was known then
            database.execute("select pg_log_standby_snapshot()")
            database.execute("select pg_replication_slot_advance(%s, pg_current_wal_lsn())", f"etl_stream_{source_id}")
        look(monitor, second_database)
        for _ in range(4):
            second_database.execute("update app.alerts set due_at = now()")
            delivery.deliver()
        assert [body["status"] for body in there.bodies] == ["WARNING", "DANGER", "OK"]
        first = there.bodies[0]
        assert list(first) == [
            "type", "source_name", "status", "wal_size_mb", "threshold_mb", "duration_mins", "timestamp",
        ]  # fmt: skip
        assert (first["type"], first["source_name"], first["threshold_mb"]) == ("wal_alert", "shop", 2)
        assert 3 <= first["wal_size_mb"] < 4
        assert there.bodies[1]["threshold_mb"] == 4
        assert len({header["X-Alert-Id"] for header in there.headers}) == 3
        assert second_database.execute("select count(*) from app.alerts where delivered_at is null") == [(0,)]


def test_an_alert_outlives_the_monitor_that_found_it(
    database: Database, second_database: Database, tmp_path: Path
) -> None:
    with http_receiver() as there, mail_receiver() as mails:
        settings = made(
            tmp_path,
            second_database,
            WARNING_WAL="1",
            DANGER_WAL="1",
            ALERT_SLACK_URL=f"http://127.0.0.1:{there.port}",
            ALERT_SMTP_URL=f"smtp://127.0.0.1:{mails.port}",
            ALERT_EMAIL_TO="ops@example.com",
        )
        source_id = add_source(settings, second_database, database)
        make_slot(database, f"etl_stream_{source_id}")
        write_wal(database, 2)
        look(WalMonitor(settings), second_database)
        look(WalMonitor(settings), second_database)  # another process: it knows what was told
        delivery = Delivery(settings, tried)
        delivery.start()
        wait_for("the message", lambda: there.bodies and mails.mails)
        delivery.close()
        (message,) = there.bodies
        assert list(message) == ["text"]
        assert message["text"].startswith("WAL of source shop: DANGER. ")
        assert f"Slot etl_stream_{source_id} (reserved) is " in message["text"]
        (mail,) = mails.mails
        assert "Subject: WAL of source shop: DANGER" in mail
        assert "To: ops@example.com" in mail


def test_a_password_is_not_sent_to_a_mail_server_without_tls(
    database: Database, second_database: Database, tmp_path: Path
) -> None:
    with mail_receiver() as mails:
        url = f"smtp://user:geheim@127.0.0.1:{mails.port}"
        settings = made(
            tmp_path, second_database, WARNING_WAL="1", ALERT_SMTP_URL=url, ALERT_EMAIL_TO="ops@example.com"
        )
        source_id = add_source(settings, second_database, database)
        make_slot(database, f"etl_stream_{source_id}")
        write_wal(database, 2)
        look(WalMonitor(settings), second_database)
        assert Delivery(settings, tried).deliver() == 0
        said = second_database.execute("select last_error from app.alerts")
        assert said == [("127.0.0.1 offers no TLS: the password is not sent",)]
        assert not mails.mails


def test_a_slot_that_is_gone_while_its_source_is_started_is_lost(
    database: Database, second_database: Database, tmp_path: Path
) -> None:
    with http_receiver() as there:
        settings = made(tmp_path, second_database, ALERT_WAL_URL=f"http://127.0.0.1:{there.port}")
        source_id = add_source(settings, second_database, database)
        monitor = WalMonitor(settings)
        make_slot(database, f"etl_stream_{source_id}")
        start_pipeline(settings, second_database, source_id)
        look(monitor, second_database)
        database.execute("select pg_drop_replication_slot(%s)", f"etl_stream_{source_id}")
        monitor.begin_round()
        wait_for("the alert", lambda: second_database.execute("select 1 from app.alerts"))
        assert Delivery(settings, tried).deliver() == 1
        assert there.bodies[0]["status"] == "LOST"


def test_a_server_that_says_nothing_costs_its_time_limit_and_holds_up_nobody(
    database: Database, second_database: Database, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        settings = made(tmp_path, second_database, WAL_MONITOR_TIMEOUT_SECONDS="2", WAL_MONITOR_MAX_RETRIES="0")
        add_source(settings, second_database, database, "deaf")
        second_database.execute("update app.sources set pg_port = %s where name = 'deaf'", deaf.getsockname()[1])
        source_id = add_source(settings, second_database, database)
        make_slot(database, f"etl_stream_{source_id}")
        monitor = WalMonitor(settings)
        began = time.monotonic()
        monitor.begin_round()
        assert time.monotonic() - began < settings.wal_monitor_timeout_seconds
        wait_for("the other source", lambda: "shop" in monitor.newest)
        assert monitor._failing == {}
        wait_for("the time limit", lambda: monitor._failing)
        (line,) = monitor._failing.values()
        assert line.startswith("source_unreachable at source deaf: ")


def test_a_statement_that_hangs_is_cut_at_the_time_limit(
    database: Database, second_database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = made(tmp_path, second_database)
    add_source(settings, second_database, database)
    (item,) = watched(settings)
    monkeypatch.setattr("workers.reader.measure._SELECT", "SELECT pg_sleep(60)")
    began = time.monotonic()
    with pytest.raises(EtlError) as caught:
        measure(item.source, settings.keyring().decrypt(item.source.pg_password), 1.0)
    assert time.monotonic() - began < 10
    assert caught.value.kind is Kind.SOURCE_UNREACHABLE
    assert caught.value.reason == "the WAL could not be measured within 1 s"


def test_measurements_are_kept_for_so_many_days(database: Database, second_database: Database, tmp_path: Path) -> None:
    settings = made(tmp_path, second_database, WAL_MONITOR_RETENTION_DAYS="2")
    source_id = add_source(settings, second_database, database)
    make_slot(database, f"etl_stream_{source_id}")
    second_database.execute(
        "insert into app.wal_metrics (source_id, slot_name, current_lsn, retained_bytes, recorded_at)"
        " select %s, 's', '0/1', 1, now() - make_interval(days => d) from generate_series(1, 3) d",
        source_id,
    )
    monitor = WalMonitor(settings)
    monitor.begin_round()
    wait_for("the old to go", lambda: second_database.execute("select count(*) from app.wal_metrics") == [(2,)])


def test_the_url_of_an_alert_never_shows_in_an_error(tmp_path: Path) -> None:
    with pytest.raises(EtlError) as caught:
        load_settings(tmp_path, {"ALERT_WAL_URL": "https://hooks.example.com:geheim/x"})
    assert caught.value.line == (
        "config at ALERT_WAL_URL: it is no such URL (read from the environment) (allowed: http:// or https://)"
    )


def test_a_measurement_is_tried_again_and_a_source_that_has_failed_before_only_once(
    database: Database, second_database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("etl_supervisor.monitor.wal.PAUSE_SECONDS", 0.01)
    asked: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as closing:

        def refuse() -> None:
            while True:
                try:
                    connection, _ = closing.accept()
                except OSError:
                    return
                asked.append("")
                connection.close()

        thread = threading.Thread(target=refuse)
        thread.start()
        settings = made(tmp_path, second_database, WAL_MONITOR_MAX_RETRIES="2")
        add_source(settings, second_database, database)
        second_database.execute("update app.sources set pg_port = %s", closing.getsockname()[1])
        monitor = WalMonitor(settings)
        monitor.begin_round()
        wait_for("the failure", lambda: monitor._failing and not monitor._under_way)
        first = len(asked)
        monitor.begin_round()
        wait_for("the next failure", lambda: not monitor._under_way)
        closing.shutdown(socket.SHUT_RDWR)
        thread.join()
    assert first == 3 * (len(asked) - first)


def test_two_supervisors_do_not_both_send_an_alert(second_database: Database, tmp_path: Path) -> None:
    with http_receiver() as there:
        settings = made(tmp_path, second_database, ALERT_WAL_URL=f"http://127.0.0.1:{there.port}/")
        body = '{"type": "wal_alert", "status": "OK"}'
        second_database.execute("insert into app.alerts (channel, body, detail) values ('webhook', %s, '')", body)
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            sent = [future.result(30) for future in [pool.submit(Delivery(settings, tried).deliver) for _ in range(4)]]
        assert (sum(sent), len(there.bodies)) == (1, 1)


def test_the_monitors_tables_go_and_come_back_and_what_was_there_before_stays(
    database: Database, second_database: Database, tmp_path: Path
) -> None:
    settings = made(tmp_path, second_database, WARNING_WAL="1", DANGER_WAL="1", ALERT_WAL_URL="http://127.0.0.1:9/")
    source_id = add_source(settings, second_database, database, warning_wal_mb=1)
    make_slot(database, f"etl_stream_{source_id}")
    write_wal(database, 2)
    look(WalMonitor(settings), second_database)
    engine = sqlalchemy.create_engine(
        "postgresql+psycopg://", creator=second_database.connect, poolclass=sqlalchemy.NullPool
    )
    chain = Config()
    chain.set_main_option("script_location", str(resources.files("migrations") / "app"))
    chain.set_main_option("path_separator", "os")
    with engine.connect() as connection:
        chain.attributes["connection"] = connection
        alembic.command.downgrade(chain, wal_monitor.down_revision)
        connection.commit()
    assert second_database.execute("select to_regclass('app.alerts'), to_regclass('app.wal_states')") == [(None, None)]
    assert migrate(settings, "app")[0].startswith(f"app: {wal_monitor.down_revision} -> ")
    assert second_database.execute("select slot_name, wal_status from app.wal_metrics") == [
        (f"etl_stream_{source_id}", None)
    ]
    look(WalMonitor(settings), second_database)
    assert second_database.execute("select level, told from app.wal_states") == [("DANGER", "DANGER")]


def test_thresholds_that_cross_are_refused(database: Database, second_database: Database, tmp_path: Path) -> None:
    settings = made(tmp_path, second_database)
    with pytest.raises(EtlError) as caught:
        add_source(settings, second_database, database, warning_wal_mb=10, danger_wal_mb=9)
    assert caught.value.line == (
        "config at sources shop: a value breaks the rule: danger_wal_mb is not below warning_wal_mb"
    )
