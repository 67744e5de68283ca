"""WAL alerts on their way out, in a thread of its own: webhook (the contract's body), Slack's form, e-mail.

The queue is `app.alerts`. Of each channel the first alert is sent when it is due; it stays locked meanwhile, so two supervisors do not both
send it. What fails is tried again after a pause that doubles up to an hour, for ever: the order is kept, nothing is dropped. A crash between
the answer and the commit sends an alert twice; the header `X-Alert-Id` (in e-mails Message-ID) is the same then.

Errors name the host, never the URL: it may be a secret.
"""

from __future__ import annotations

import contextlib
import smtplib
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import EmailMessage
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import certifi
import orjson
import psycopg
import structlog
import urllib3

from etl_supervisor.errors import EtlError
from etl_supervisor.model.wal import Level
from etl_supervisor.monitor.rounds import Rounds
from etl_supervisor.repository import wal as books
from etl_supervisor.repository.alerting import Alerting, in_force
from etl_supervisor.repository.connection import connect, trouble
from etl_supervisor.repository.wal import Waiting

if TYPE_CHECKING:
    from etl_supervisor.config.settings import Settings

LOOK_SECONDS = 5.0  # how long an alert that is new may lie there
SEND_SECONDS_MAX = 10.0
PAUSE_SECONDS = 10.0  # after the first failure
PAUSE_SECONDS_MAX = 3600.0
PAUSE_DOUBLINGS_MAX = 20
SMTP_PORT, SMTPS_PORT = 587, 465
SMTP_TAKEN = 250
NO_SOURCE = "(test)"  # in a test's body; no source can be called so
_URLS = {"webhook": "alert_wal_url", "slack": "alert_slack_url", "email": "alert_smtp_url"}

log = structlog.get_logger()


class DeliveryError(Exception):
    """An alert did not arrive; the text may be shown. `status` is what the other end answered, when it did."""

    def __init__(self, text: str, status: int | None = None) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True, slots=True)
class Answer:
    """What the other end answered (HTTP, SMTP; None: nothing), and what is to be said of it: some addresses were refused."""

    status: int | None
    remark: str | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a test. `status` is the other end's answer, `error` why it did not arrive, or not at all addresses; without secrets."""

    channel: str
    delivered: bool
    status: int | None
    milliseconds: int
    error: str | None


def channels_of(alerting: Alerting) -> list[str]:
    """Where alerts go."""
    wanted = {
        "webhook": "alert_wal_url" in alerting.urls,
        "slack": "alert_slack_url" in alerting.urls,
        "email": alerting.alert_email_to is not None and "alert_smtp_url" in alerting.urls,
    }
    return [channel for channel, here in wanted.items() if here]


def pause_after(attempts: int) -> float:
    """Seconds until the next try, after so many failures."""
    return float(min(PAUSE_SECONDS_MAX, PAUSE_SECONDS * 2 ** min(attempts - 1, PAUSE_DOUBLINGS_MAX)))


class Delivery:
    """Sends what is due, until it is closed."""

    def __init__(self, settings: Settings, count: Callable[[str, str], None]) -> None:
        """`count` gets the channel and `delivered` or `failed`, once per try."""
        self._settings = settings
        self._count = count
        self._rounds = Rounds("alerts", LOOK_SECONDS, "alerts_not_delivered", self._deliver_all)

    def start(self) -> None:
        """Begin."""
        self._rounds.start()

    def close(self) -> None:
        """End; what is being sent is left to the process's end and sent again by the next one."""
        self._rounds.close()

    def _deliver_all(self) -> None:
        while not self._rounds.ending.is_set() and self.deliver():
            pass

    def deliver(self) -> int:
        """One try at the first alert of each channel; how many have arrived. EtlError(CONFIG_DATABASE)."""
        try:
            with connect(self._settings.config_dsn(), autocommit=True) as connection:
                alerting = in_force(connection, self._settings)
                return sum(self._first(connection, channel, alerting) for channel in channels_of(alerting))
        except psycopg.Error as error:
            raise trouble(error) from None

    def _first(self, connection: psycopg.Connection[tuple[object, ...]], channel: str, alerting: Alerting) -> bool:
        with connection.transaction():
            alert = books.next_alert(connection, channel)
            if alert is None:
                return False
            try:
                answer = send(alerting, alert)
            except DeliveryError as error:
                pause = pause_after(alert.attempts + 1)
                books.failed(connection, alert, str(error), pause)
                log.warning("alert_not_delivered", channel=channel, reason=str(error), again_in_seconds=pause)
                self._count(channel, "failed")
                return False
            books.delivered(connection, alert)
        if answer.remark:
            log.warning("alert_not_for_everybody", channel=channel, reason=answer.remark)
        self._count(channel, "delivered")
        return True


def send(alerting: Alerting, alert: Waiting) -> Answer:
    """Send one alert over its channel. DeliveryError when nobody got it."""
    try:
        url = alerting.url(_URLS[alert.channel])
        urlsplit(url).port  # noqa: B018 # it is read when it is asked for
    except EtlError as error:
        raise DeliveryError(f"its URL: {error.reason}") from None
    except ValueError:  # its text has parts of the URL
        raise DeliveryError("its URL can't be read") from None
    if alert.channel == "email":
        return _mail(alerting, url, alert)
    body = alert.body if alert.channel == "webhook" else {"text": text_of(alert)}
    return _post(url, orjson.dumps(body), alert.id)


def send_test(alerting: Alerting, number: int, who: str) -> list[Outcome]:
    """Send an alert that is none over every channel, once; what became of each. It is as alerts are, with `test` in its body."""
    body = {
        "type": "wal_alert",
        "source_name": NO_SOURCE,
        "status": Level.WARNING.value,
        "wal_size_mb": 0.0,
        "threshold_mb": alerting.warning_wal,
        "duration_mins": 0.0,
        "timestamp": datetime.now(UTC).isoformat(timespec="seconds"),
        "test": True,
    }
    detail = f"this is a test of the alerts, asked for by {who}"
    return [_tried(alerting, Waiting(number, channel, body, detail, 0)) for channel in channels_of(alerting)]


def _tried(alerting: Alerting, alert: Waiting) -> Outcome:
    began, delivered = time.monotonic(), True
    try:
        answer = send(alerting, alert)
    except DeliveryError as error:
        delivered, answer = False, Answer(error.status, str(error))
    milliseconds = round((time.monotonic() - began) * 1000)
    return Outcome(alert.channel, delivered, answer.status, milliseconds, answer.remark)


def text_of(alert: Waiting) -> str:
    """The alert in words."""
    body = alert.body
    head = f"WAL of source {body['source_name']}: {body['status']}"
    size = f"{body['wal_size_mb']:g} MB retained, threshold {body['threshold_mb']} MB"
    verb = "after" if body["status"] == "OK" else "for"
    return f"{head}. {size}, {verb} {body['duration_mins']:g} min. {alert.detail[:1].upper()}{alert.detail[1:]}."


def _post(url: str, body: bytes, number: int) -> Answer:
    parts = urlsplit(url)
    host = str(parts.hostname)
    proxy = None if proxy_bypass(host) else getproxies().get(parts.scheme)
    options = {"timeout": SEND_SECONDS_MAX, "retries": False, "ca_certs": certifi.where()}
    headers = {"Content-Type": "application/json", "X-Alert-Id": str(number)}
    with urllib3.ProxyManager(proxy, **options) if proxy else urllib3.PoolManager(**options) as pool:  # type: ignore[arg-type]
        try:
            answer = pool.request("POST", url, body=body, headers=headers, redirect=False)
        except urllib3.exceptions.HTTPError as error:
            raise DeliveryError(f"{host} does not answer ({type(error).__name__})") from None
    if not 200 <= answer.status < 300:
        raise DeliveryError(f"{host} answered {answer.status}", answer.status)
    return Answer(answer.status)


def _mail(alerting: Alerting, url: str, alert: Waiting) -> Answer:
    parts = urlsplit(url)
    host, tls = str(parts.hostname), ssl.create_default_context(cafile=certifi.where())
    message = EmailMessage()
    message["From"], message["To"] = alerting.alert_email_from, alerting.alert_email_to
    message["Subject"] = f"WAL of source {alert.body['source_name']}: {alert.body['status']}"
    message["Message-ID"] = f"<wal-alert-{alert.id}@etl-stream>"
    message.set_content(text_of(alert) + "\n\n" + orjson.dumps(alert.body, option=orjson.OPT_INDENT_2).decode() + "\n")
    try:
        with contextlib.ExitStack() as stack:
            if parts.scheme == "smtps":
                server: smtplib.SMTP = smtplib.SMTP_SSL(
                    host, parts.port or SMTPS_PORT, timeout=SEND_SECONDS_MAX, context=tls
                )
            else:
                server = smtplib.SMTP(host, parts.port or SMTP_PORT, timeout=SEND_SECONDS_MAX)
            stack.enter_context(server)
            secret = parts.scheme == "smtps"
            if not secret and server.has_extn("starttls"):
                server.starttls(context=tls)
                secret = True
            if parts.username:
                if not secret:
                    raise DeliveryError(f"{host} offers no TLS: the password is not sent")
                server.login(unquote(parts.username), unquote(parts.password or ""))
            refused = server.send_message(message)
    except (smtplib.SMTPException, OSError) as error:
        status = error.smtp_code if isinstance(error, smtplib.SMTPResponseException) else None
        raise DeliveryError(f"mail server {host} did not take it ({type(error).__name__})", status) from None
    return Answer(SMTP_TAKEN, f"mail server {host} refused {len(refused)} of the addresses" if refused else None)
