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
from collections.abc import Callable
from email.message import EmailMessage
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import certifi
import orjson
import psycopg
import structlog
import urllib3

from etl_supervisor.monitor.rounds import Rounds
from etl_supervisor.repository import wal as books
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

log = structlog.get_logger()


class DeliveryError(Exception):
    """An alert did not arrive; the text may be shown."""


def channels_of(settings: Settings) -> list[str]:
    """Where alerts go."""
    wanted = {
        "webhook": settings.alert_wal_url is not None,
        "slack": settings.alert_slack_url is not None,
        "email": settings.alert_email_to is not None and settings.alert_smtp_url is not None,
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
                return sum(self._first(connection, channel) for channel in channels_of(self._settings))
        except psycopg.Error as error:
            raise trouble(error) from None

    def _first(self, connection: psycopg.Connection[tuple[object, ...]], channel: str) -> bool:
        with connection.transaction():
            alert = books.next_alert(connection, channel)
            if alert is None:
                return False
            try:
                send(self._settings, alert)
            except DeliveryError as error:
                pause = pause_after(alert.attempts + 1)
                books.failed(connection, alert, str(error), pause)
                log.warning("alert_not_delivered", channel=channel, reason=str(error), again_in_seconds=pause)
                self._count(channel, "failed")
                return False
            books.delivered(connection, alert)
        self._count(channel, "delivered")
        return True


def send(settings: Settings, alert: Waiting) -> None:
    """Send one alert over its channel. DeliveryError."""
    if alert.channel == "email":
        _mail(settings, alert)
        return
    url = settings.alert_wal_url if alert.channel == "webhook" else settings.alert_slack_url
    assert url is not None
    body = alert.body if alert.channel == "webhook" else {"text": text_of(alert)}
    _post(url.get_secret_value(), orjson.dumps(body), alert.id)


def text_of(alert: Waiting) -> str:
    """The alert in words."""
    body = alert.body
    head = f"WAL of source {body['source_name']}: {body['status']}"
    size = f"{body['wal_size_mb']:g} MB retained, threshold {body['threshold_mb']} MB"
    verb = "after" if body["status"] == "OK" else "for"
    return f"{head}. {size}, {verb} {body['duration_mins']:g} min. {alert.detail[:1].upper()}{alert.detail[1:]}."


def _post(url: str, body: bytes, number: int) -> None:
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
        raise DeliveryError(f"{host} answered {answer.status}")


def _mail(settings: Settings, alert: Waiting) -> None:
    assert settings.alert_smtp_url is not None
    parts = urlsplit(settings.alert_smtp_url.get_secret_value())
    host, tls = str(parts.hostname), ssl.create_default_context(cafile=certifi.where())
    message = EmailMessage()
    message["From"], message["To"] = settings.alert_email_from, settings.alert_email_to
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
            server.send_message(message)
    except (smtplib.SMTPException, OSError) as error:
        raise DeliveryError(f"mail server {host} did not take it ({type(error).__name__})") from None
