"""Settings of alerting changed while everything runs, taken by the monitor, and a test of the alerts at real receivers."""

import contextlib
import socket
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from etl_supervisor.embedded.ports import choose_port
from etl_supervisor.monitor.delivery import Delivery
from etl_supervisor.monitor.wal import WalMonitor
from etl_supervisor.repository.desired import load
from etl_supervisor.repository.secrets import rotate, standing
from etl_supervisor.repository.write import upsert
from tests.api.test_inspection import over
from tests.api.test_resources import error
from tests.support import least
from tests.support.fix_api import Api
from tests.support.fix_deployment import Deployment, wait_for
from tests.support.fix_postgres import Database
from tests.support.receiver import http_receiver, mail_receiver

SETTINGS = "/api/v1/settings"
IN_FORCE = {
    "warning_wal": 3000,
    "danger_wal": 6000,
    "time_check_notification": 10,
    "alert_email_to": None,
    "alert_email_from": "etl-stream@localhost",
    "alert_wal_url_set": False,
    "alert_slack_url_set": False,
    "alert_smtp_url_set": False,
    "channels": [],
    "overridden": [],
}
HOOK = "https://hooks.example.com/T0/geheim"


def shown(api: Api) -> dict[str, tuple[str | None, bool]]:
    return {
        item["name"]: (item["value"], item["overridden"]) for item in api.get(SETTINGS).json() if item["changeable"]
    }


def test_a_change_is_in_force_at_once_and_null_is_the_environments_again(api: Api) -> None:
    assert api.patch(SETTINGS, json={}).json() == IN_FORCE
    changed = api.patch(SETTINGS, json={"warning_wal": 7, "alert_wal_url": HOOK, "alert_email_to": "a@b.c, d@e.f"})
    assert (changed.status_code, changed.json()) == (
        200,
        IN_FORCE
        | {"warning_wal": 7, "alert_email_to": "a@b.c, d@e.f", "alert_wal_url_set": True, "channels": ["webhook"]}
        | {"overridden": ["alert_email_to", "alert_wal_url", "warning_wal"]},
    )
    assert {name: told for name, told in shown(api).items() if told[1]} == {
        "WARNING_WAL": ("7", True),
        "ALERT_WAL_URL": ("***", True),
        "ALERT_EMAIL_TO": ("a@b.c, d@e.f", True),
    }
    assert len(shown(api)) == 8
    given_back = api.patch(SETTINGS, json={"warning_wal": None, "alert_wal_url": None, "alert_email_to": None})
    assert given_back.json() == IN_FORCE


def test_urls_are_encrypted_and_nobody_is_told_them(api: Api) -> None:
    answers = [api.patch(SETTINGS, json={"alert_wal_url": HOOK}), api.get(SETTINGS), api.get("/api/v1/audit-log")]
    again = api.patch(SETTINGS, json={"alert_wal_url": HOOK + "2", "danger_wal": 6001})
    answers += [again, api.get("/api/v1/audit-log")]
    ((stored,),) = api.database.execute("select alert_wal_url from app.settings")
    assert stored.startswith("v1:")
    assert "geheim" not in "".join(answer.text for answer in answers) + api.log
    newest, first = api.get("/api/v1/audit-log").json()["items"]
    assert (newest["action"], newest["entity"], newest["entity_id"]) == ("update", "Settings", "1 alerting")
    assert (first["before"], first["after"]) == ({"alert_wal_url": None}, {"alert_wal_url": "*** (new)"})
    assert newest["before"] == {"danger_wal": None, "alert_wal_url": "***"}
    assert newest["after"] == {"danger_wal": 6001, "alert_wal_url": "*** (new)"}


def test_a_url_that_is_written_by_sql_is_encrypted_at_the_next_poll_and_rotated_like_others(api: Api) -> None:
    api.database.execute("insert into app.settings (alert_wal_url) values (%s)", HOOK)
    assert api.patch(SETTINGS, json={}).json()["alert_wal_url_set"] is True
    assert standing(api.settings).clear == ("settings/alerting/alert_wal_url",)
    load(api.settings)
    ((stored,),) = api.database.execute("select alert_wal_url from app.settings")
    assert stored.startswith("v1:")
    assert (rotate(api.settings).current, standing(api.settings).clear) == (1, ())


def test_who_has_seen_an_older_state_changes_nothing(api: Api) -> None:
    first = api.get(SETTINGS).headers["ETag"]
    second = api.patch(SETTINGS, json={"warning_wal": 5}, headers={"If-Match": first}).headers["ETag"]
    assert api.get(SETTINGS).headers["ETag"] == second != first
    assert error(api.patch(SETTINGS, json={"warning_wal": 6}, headers={"If-Match": first})) == (
        412,
        "PreconditionFailedError",
        "Settings alerting has been changed since: read it again",
        {"entity_type": "Settings", "entity_id": "1"},
    )
    assert api.patch(SETTINGS, json={"warning_wal": 6}, headers={"If-Match": second}).status_code == 200


@pytest.mark.parametrize(
    ("change", "field", "reason"),
    [
        ({"warning_wal": 0}, "warning_wal", "Input should be greater than or equal to 1"),
        ({"warning_wal": 6001}, "danger_wal", "it is below WARNING_WAL"),
        ({"danger_wal": 2999}, "danger_wal", "it is below WARNING_WAL"),
        ({"alert_wal_url": "ftp://geheim"}, "alert_wal_url", "it is no such URL"),
        ({"alert_smtp_url": "https://geheim"}, "alert_smtp_url", "it is no such URL"),
        ({"alert_email_to": "nobody"}, "alert_email_to", "it is no e-mail address"),
        ({"alert_email_from": "a@b\r\nBcc: c@d"}, "alert_email_from", "it is no e-mail address"),
        ({"secret_key": "geheim"}, "secret_key", "Extra inputs are not permitted"),
    ],
)
def test_what_can_not_be_is_refused_and_nothing_is_changed(
    api: Api, change: dict[str, Any], field: str, reason: str
) -> None:
    answer = api.patch(SETTINGS, json={"time_check_notification": 3} | change)
    wrong = {"errors": [{"field": field, "reason": reason}]}
    assert error(answer) == (422, "ValidationError", f"{field}: {reason}", wrong)
    assert "geheim" not in answer.text + api.log
    assert api.patch(SETTINGS, json={}).json() == IN_FORCE
    assert api.get("/api/v1/audit-log").json()["items"] == []


def test_settings_are_not_for_keys_of_a_tenant(api: Api) -> None:
    told = (403, "PermissionDeniedError", "This is for keys of all tenants", {"tenant": "acme"})
    with api.as_("admin", "acme") as acme:
        assert error(acme.patch(SETTINGS, json={"warning_wal": 1})) == told
        assert error(acme.post(f"{SETTINGS}/test-alert")) == told


def test_the_monitor_takes_what_was_changed_at_its_next_round(api: Api, database: Database) -> None:
    with api.database.connect() as connection:
        source = upsert(connection, api.settings.keyring(), "sources", name="shop", **least.source(database))
    database.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", f"etl_stream_{source}")
    for _ in range(3):
        database.execute("select pg_logical_emit_message(true, 'test', repeat('x', 1 << 20))")
    monitor, delivery = WalMonitor(api.settings), Delivery(api.settings, lambda *_: None)

    def look() -> None:
        ((before,),) = api.database.execute("select count(*) from app.wal_metrics")
        monitor.begin_round()
        wait_for("a look", lambda: api.database.execute("select count(*) from app.wal_metrics")[0][0] > before)
        wait_for("its end", lambda: not monitor._under_way)

    with http_receiver() as first, http_receiver() as second:
        look()
        assert api.database.execute("select level from app.wal_states") == [("OK",)]
        url = f"http://127.0.0.1:{first.port}"
        api.patch(SETTINGS, json={"warning_wal": 2, "time_check_notification": 0, "alert_wal_url": url})
        look()
        assert delivery.deliver() == 1
        api.patch(SETTINGS, json={"danger_wal": 2, "alert_wal_url": f"http://127.0.0.1:{second.port}"})
        look()
        assert delivery.deliver() == 1
        assert [(body["status"], body["threshold_mb"]) for body in first.bodies] == [("WARNING", 2)]
        assert [(body["status"], body["threshold_mb"]) for body in second.bodies] == [("DANGER", 2)]
    monitor.close()


def test_a_url_that_does_not_open_holds_its_own_alerts_alone(api: Api) -> None:
    with http_receiver() as slack:
        api.patch(SETTINGS, json={"alert_wal_url": HOOK, "alert_slack_url": f"http://127.0.0.1:{slack.port}"})
        api.database.execute("update app.settings set alert_wal_url = overlay(alert_wal_url placing 'AAAA' from 20)")
        body = '{"source_name":"s","status":"OK","wal_size_mb":1,"threshold_mb":2,"duration_mins":3}'
        for channel in ("webhook", "slack"):
            api.database.execute("insert into app.alerts (channel, body, detail) values (%s, %s, 'd')", channel, body)
        assert Delivery(api.settings, lambda *_: None).deliver() == 1
        assert len(slack.bodies) == 1
    held = api.database.execute("select channel, last_error from app.alerts where delivered_at is null")
    assert held == [("webhook", "its URL: the stored secret does not open with SECRET_KEY")]


def test_a_test_alert_goes_over_every_channel_and_tells_what_each_answered(api: Api) -> None:
    with http_receiver() as hook, http_receiver() as slack, mail_receiver() as mails:
        hook.answers = [418]
        urls = {
            "alert_wal_url": f"http://127.0.0.1:{hook.port}/geheim",
            "alert_slack_url": f"http://127.0.0.1:{slack.port}/geheim",
            "alert_smtp_url": f"smtp://127.0.0.1:{mails.port}",
        }
        api.patch(SETTINGS, json=urls | {"alert_email_to": "ops@example.com"})
        with api.as_("operator") as operator:
            done = over(api, operator.post(f"{SETTINGS}/test-alert"))
            again = over(api, operator.post(f"{SETTINGS}/test-alert"))["result"]
        assert "geheim" not in str(done) + api.log
        assert (done["status"], done["kind"], done["result"]["ok"]) == ("succeeded", "test alert", False)
        outcomes = done["result"]["channels"]
        assert [tuple(item[name] for name in ("channel", "delivered", "status", "error")) for item in outcomes] == [
            ("webhook", False, 418, "127.0.0.1 answered 418"),
            ("slack", True, 200, None),
            ("email", True, 250, None),
        ]
        assert all(item["milliseconds"] >= 0 for item in outcomes)
        assert (again["ok"], [item["status"] for item in again["channels"]]) == (True, [200, 200, 250])
        (body,) = hook.bodies
        assert {key: body[key] for key in body if key != "timestamp"} == {
            "type": "wal_alert",
            "source_name": "(test)",
            "status": "WARNING",
            "wal_size_mb": 0.0,
            "threshold_mb": 3000,
            "duration_mins": 0.0,
            "test": True,
        }
        assert "This is a test of the alerts, asked for by a operator" in slack.bodies[0]["text"]
        assert len({mail.split("Message-ID: ")[1].split()[0] for mail in mails.mails}) == 2
    assert api.database.execute("select count(*) from app.alerts") == [(0,)], "nothing waits to be sent again"


def test_a_test_alert_tells_who_does_not_answer(api: Api) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        api.patch(SETTINGS, json={"alert_wal_url": f"http://127.0.0.1:{nobody.getsockname()[1]}/geheim"})
        (outcome,) = over(api, api.post(f"{SETTINGS}/test-alert"))["result"]["channels"]
    assert (outcome["delivered"], outcome["status"]) == (False, None)
    assert outcome["error"] == "127.0.0.1 does not answer (NewConnectionError)"


def test_a_mail_that_is_not_for_everybody_is_told_as_such(api: Api) -> None:
    with mail_receiver() as mails:
        mails.refused = [b"typo@example.com"]
        to = {"alert_smtp_url": f"smtp://127.0.0.1:{mails.port}", "alert_email_to": "a@example.com, typo@example.com"}
        api.patch(SETTINGS, json=to)
        (some,) = over(api, api.post(f"{SETTINGS}/test-alert"))["result"]["channels"]
        mails.refused.append(b"a@example.com")
        (none,) = over(api, api.post(f"{SETTINGS}/test-alert"))["result"]["channels"]
    assert (some["delivered"], some["status"], some["error"]) == (
        True,
        250,
        "mail server 127.0.0.1 refused 1 of the addresses",
    )
    assert (none["delivered"], none["error"]) == (
        False,
        "mail server 127.0.0.1 did not take it (SMTPRecipientsRefused)",
    )
    assert len(mails.mails) == 1


def test_a_test_alert_without_a_channel_is_refused(api: Api) -> None:
    message = "No alert would reach anybody: set alert_wal_url, alert_slack_url or alert_email_to"
    assert error(api.post(f"{SETTINGS}/test-alert")) == (409, "ConflictError", message, {})


@pytest.mark.slow
def test_a_running_supervisor_takes_what_was_changed(deploy: Deployment) -> None:
    address = f"127.0.0.1:{choose_port()}"
    deploy.source.execute("create table t (id int primary key); create publication p for table t")
    deploy.start(API_ADDR=address, API_AUTH="disabled", WAL_MONITOR_INTERVAL_SECONDS="1")
    with httpx.Client(base_url=f"http://{address}", timeout=30) as client, http_receiver() as hook:

        def ready() -> bool:
            with contextlib.suppress(httpx.TransportError):
                return client.get("/ready").status_code == 200
            return False

        wait_for("the API", ready)
        deploy.add("shop", status="PAUSE")
        ((number,),) = deploy.config.execute("select replication_id from app.sources")
        deploy.source.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", f"etl_stream_{number}")
        deploy.source.execute("select pg_logical_emit_message(true, 'test', repeat('x', 3 << 20))")
        change = {"warning_wal": 2, "time_check_notification": 0, "alert_wal_url": f"http://127.0.0.1:{hook.port}/"}
        client.patch(SETTINGS, json=change).raise_for_status()
        wait_for("the alert", lambda: hook.bodies)
        assert (hook.bodies[0]["status"], hook.bodies[0]["threshold_mb"]) == ("WARNING", 2)
    assert deploy.stop() == 0


def test_the_environments_channels_are_tested_too(api_server: Callable[..., Api]) -> None:
    with http_receiver() as hook:
        api = api_server(ALERT_WAL_URL=f"http://127.0.0.1:{hook.port}/", WARNING_WAL="1234")
        assert over(api, api.post(f"{SETTINGS}/test-alert"))["result"]["ok"] is True
        assert hook.bodies[0]["threshold_mb"] == 1234
