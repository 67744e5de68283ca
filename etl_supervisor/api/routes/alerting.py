"""The settings in force, those of alerting changed while everything runs, and a test of the alerts: the installation's, so for keys of all tenants.

What is changed stands in `app.settings` and overrides the environment from the monitor's next round on; null gives way to the environment again.
URLs are secrets: they are sent and never shown.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field, SecretStr, ValidationError

from etl_supervisor.api import audit, faults, rows
from etl_supervisor.api.access import Admin, Operator
from etl_supervisor.api.bodies import INTEGER_MAX, Body, Secret, Text
from etl_supervisor.api.control import ControlOf
from etl_supervisor.api.operations import Operation
from etl_supervisor.api.routes.administration import installation_wide
from etl_supervisor.api.routes.resources import IfMatch, desk_of, etag, seen_version
from etl_supervisor.api.rows import SETTINGS, VERSION, Desk
from etl_supervisor.config.describe import describe
from etl_supervisor.config.settings import Settings
from etl_supervisor.monitor import delivery
from etl_supervisor.repository.alerting import AT_RUN_TIME, ROW_ID, URLS, Alerting, in_force

NOTHING_YET: dict[str, Any] = {"id": ROW_ID, VERSION: "0"}  # before the first change there is no row

router = APIRouter(tags=["administration"])


class Setting(BaseModel):
    """A setting in force. A secret is told as set or not."""

    name: str
    value: str | None
    allowed: str
    meaning: str
    changeable: bool = Field(description="Whether PATCH /settings takes it, while everything runs")
    overridden: bool = Field(description="Whether it was changed so; else it is the environment's")


class SettingsChanges(Body):
    """What is left out stays; null is the environment's again."""

    warning_wal: int | None = Field(None, ge=1, le=INTEGER_MAX, description="Retained WAL that warns, MB")
    danger_wal: int | None = Field(None, ge=1, le=INTEGER_MAX, description="Retained WAL that is dangerous, MB")
    time_check_notification: int | None = Field(
        None, ge=0, le=10080, description="Minutes that trouble must last before it is told"
    )
    alert_wal_url: Secret | None = Field(None, description="Webhook")
    alert_slack_url: Secret | None = Field(None, description="Webhook of Slack, or of what takes its form")
    alert_email_to: Text | None = Field(None, description="Addresses, by comma; needs alert_smtp_url")
    alert_email_from: Text | None = Field(None, description="Sender of e-mails")
    alert_smtp_url: Secret | None = Field(None, description="Mail server: smtp:// or smtps://")


class AlertSettings(BaseModel):
    """What of alerting is in force. URLs are never shown."""

    warning_wal: int
    danger_wal: int
    time_check_notification: int
    alert_email_to: str | None
    alert_email_from: str
    alert_wal_url_set: bool
    alert_slack_url_set: bool
    alert_smtp_url_set: bool
    channels: list[str] = Field(description="Where alerts go: webhook, slack, email")
    overridden: list[str] = Field(description="What was changed while it runs")


@router.get("/settings", summary="Read the settings in force")
def read_settings(control: ControlOf, caller: Admin, response: Response) -> list[Setting]:
    """Of this process; the supervisor's are the same when it was started from the same place. What was changed is everybody's."""
    installation_wide(caller)
    with desk_of(control, caller) as desk:
        alerting, row = in_force(desk.connection, control.settings), _row(desk)
    response.headers["ETag"] = etag(row)
    return [
        Setting(
            name=doc.name,
            value=_shown(doc.name.lower(), control.settings, alerting),
            allowed=doc.allowed,
            meaning=doc.reason,
            changeable=doc.name.lower() in AT_RUN_TIME,
            overridden=doc.name.lower() in alerting.overridden,
        )
        for doc in describe()
    ]


@router.patch("/settings", summary="Change settings while everything runs")
def change_settings(
    body: SettingsChanges, control: ControlOf, caller: Admin, response: Response, if_match: IfMatch = None
) -> AlertSettings:
    """Thresholds and where alerts go. The monitor takes them at its next round (WAL_MONITOR_INTERVAL_SECONDS; alerts at once)."""
    installation_wide(caller)
    seen = seen_version(if_match, ROW_ID)
    with desk_of(control, caller) as desk:
        made = desk.connection.execute("INSERT INTO app.settings DEFAULT VALUES ON CONFLICT DO NOTHING RETURNING id")
        if made.fetchone() is not None and seen == NOTHING_YET[VERSION]:
            seen = None
        row = rows.update(desk, SETTINGS, ROW_ID, body.model_dump(exclude_unset=True), seen)
        alerting = in_force(desk.connection, control.settings)
        _goes_together(alerting, body)
    response.headers["ETag"] = etag(row)
    return _view(alerting)


@router.post("/settings/test-alert", status_code=202, summary="Send a test alert")
def test_alert(control: ControlOf, caller: Operator) -> Operation:
    """Over every channel that is set, by what delivers alerts, once. The result tells what each other end answered."""
    installation_wide(caller)
    with desk_of(control, caller) as desk:
        alerting = in_force(desk.connection, control.settings)
        if not delivery.channels_of(alerting):
            raise faults.conflict("No alert would reach anybody: set alert_wal_url, alert_slack_url or alert_email_to")
        found = desk.connection.execute("SELECT nextval(pg_get_serial_sequence('app.alerts', 'id')) AS id").fetchone()
    assert found is not None

    def work() -> dict[str, Any]:
        outcomes = delivery.send_test(alerting, found["id"], caller.name)
        return {"ok": all(item.delivered for item in outcomes), "channels": [asdict(item) for item in outcomes]}

    return control.crew.begin(caller, audit.NO_TENANT, ("test alert", "settings"), work)


def _row(desk: Desk) -> dict[str, Any]:
    query = "SELECT id, xmin::text AS _version FROM app.settings"
    return desk.connection.execute(query).fetchone() or NOTHING_YET


def _goes_together(alerting: Alerting, body: SettingsChanges) -> None:
    """Fault 422 for what the environment could not say either; only what was sent is looked at, and with what it must agree."""
    values: dict[str, Any] = {name: getattr(alerting, name) for name in AT_RUN_TIME if name not in URLS}
    sent = {name: value for name, value in body if name in URLS and value is not None}
    try:
        Settings(**values, **sent)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        reason = str(first["msg"]).removeprefix("Value error, ")
        raise faults.invalid(str(first["loc"][0]), reason) from None


def _view(alerting: Alerting) -> AlertSettings:
    told: dict[str, Any] = {f"{name}_set": name in alerting.urls for name in URLS}
    told |= {name: getattr(alerting, name) for name in AT_RUN_TIME if name not in URLS}
    return AlertSettings(**told, channels=delivery.channels_of(alerting), overridden=sorted(alerting.overridden))


def _shown(name: str, settings: Settings, alerting: Alerting) -> str | None:
    if name in URLS:
        return audit.MASK if name in alerting.urls else None
    value = getattr(alerting if name in AT_RUN_TIME else settings, name)
    if isinstance(value, SecretStr):
        return audit.MASK
    return None if value is None else str(value)
