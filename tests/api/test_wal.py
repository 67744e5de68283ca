"""What the WAL monitor has measured, as the API tells it: history, pages, and a forecast."""

from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from etl_supervisor.api.routes.wal import _HISTORY, forecast
from etl_supervisor.monitor.alerts import MB, Thresholds
from tests.api.test_resources import error
from tests.support.fix_api import Api

WAL, SOURCE_WAL = "/api/v1/metrics/wal", "/api/v1/sources/1/wal"
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.fixture
def measured(api: Api) -> Api:
    """Five measurements of a slot, a minute apart, the last at noon; one of another slot at noon."""
    api.filled()
    api.database.execute(
        "insert into app.wal_metrics (source_id, slot_name, current_lsn, retained_bytes, recorded_at, growth_bytes_per_second, safe_wal_bytes,"
        " dies_in_seconds) select 1, 'etl_stream_1', '0/1'::pg_lsn + n, n * 1000, %(noon)s::timestamptz - make_interval(mins => 5 - n), 100,"
        " 10000, 100 from generate_series(1, 5) n".replace("%(noon)s", f"'{NOON.isoformat()}'")
    )
    api.database.execute(
        "insert into app.wal_metrics (source_id, slot_name, current_lsn, retained_bytes, recorded_at)"
        f" values (1, 'other', '0/9', 1, '{NOON.isoformat()}')"
    )
    return api


def of(answer: Any) -> list[int]:
    assert answer.status_code == 200, answer.text
    return [item["id"] for item in answer.json()]


def test_measurements_come_newest_first(measured: Api) -> None:
    found = measured.get(f"{WAL}?source_id=1&limit=2").json()
    assert [(item["slot_name"], item["current_lsn"]) for item in found] == [("other", "0/9"), ("etl_stream_1", "0/6")]
    assert error(measured.get(f"{WAL}?source_id=9"))[:2] == (404, "EntityNotFoundError")
    with measured.as_("viewer", "acme") as acme:
        assert acme.get(WAL).json() == []
        assert acme.get(SOURCE_WAL).status_code == 404


def test_a_span_of_time_and_one_slot_can_be_asked_for(measured: Api) -> None:
    span = {"from": (NOON - timedelta(minutes=3)).isoformat(), "to": NOON.isoformat()}
    assert of(measured.get(WAL, params=span)) == [4, 3, 2]
    assert of(measured.get(WAL, params={"slot_name": "other"})) == [6]
    assert error(measured.get(WAL, params={"from": "2026-01-01T12:00:00"})) == (
        422,
        "ValidationError",
        "from: Input should have timezone info",
        {"errors": [{"field": "from", "reason": "Input should have timezone info"}]},
    )
    assert error(measured.get(WAL, params={"since": NOON.isoformat()}))[:2] == (422, "ValidationError")


def test_pages_follow_each_other_whatever_is_measured_meanwhile(measured: Api) -> None:
    seen, path = [], f"{WAL}?source_id=1&limit=2"
    for _ in range(3):
        answer = measured.get(path)
        seen += of(answer)
        measured.database.execute(
            "insert into app.wal_metrics (source_id, slot_name, current_lsn, retained_bytes) values (1, 'etl_stream_1', '0/7', 7)"
        )
        link = answer.headers.get("Link", "")
        path = link.partition("<")[2].partition(">")[0]
    assert (seen, path) == ([6, 5, 4, 3, 2, 1], "")
    for nonsense in ("x", "MTIz", "LTEuLTE="):
        assert error(measured.get(WAL, params={"cursor": nonsense})) == (
            422,
            "ValidationError",
            "cursor: it is not a next_cursor of this list",
            {"errors": [{"field": "cursor", "reason": "it is not a next_cursor of this list"}]},
        )


def test_a_page_of_all_sources_is_read_by_an_index(measured: Api) -> None:
    measured.database.execute(
        "insert into app.wal_metrics (source_id, slot_name, current_lsn, retained_bytes, recorded_at)"
        " select 1, 'old', '0/1', 1, '2020-01-01T00:00:00Z'::timestamptz + make_interval(secs => n) from generate_series(1, 5000) n;"
        " analyze app.wal_metrics"
    )
    asked = {
        "source": None,
        "slot": None,
        "tenant": None,
        "from": None,
        "to": None,
        "moment": NOON,
        "id": 6,
        "limit": 3,
    }
    with psycopg.connect(measured.database.dsn) as connection:
        plan = "\n".join(line for (line,) in connection.execute(b"EXPLAIN " + _HISTORY.encode(), asked))
    assert "wal_metrics_newest" in plan
    assert "Sort" not in plan


def test_a_source_tells_its_level_and_where_each_slot_goes(measured: Api) -> None:
    measured.patch("/api/v1/sources/1", json={"warning_wal_mb": 1, "danger_wal_mb": 2})
    measured.database.execute(
        "insert into app.wal_states (source_id, level, told, trouble_since) values (1, 'WARNING', 'OK', '2026-01-01T11:00:00Z')"
    )
    found = measured.get(SOURCE_WAL).json()
    assert (found["level"], found["trouble_since"]) == ("WARNING", "2026-01-01T11:00:00Z")
    assert (found["warning_mb"], found["danger_mb"]) == (1, 2)
    ours, other = found["slots"]
    assert (ours["slot_name"], ours["retained_bytes"]) == ("etl_stream_1", 5000)
    told = {name: datetime.fromisoformat(moment) for name, moment in ours["forecast"].items()}
    assert told == {
        "warning_at": NOON + timedelta(seconds=(MB - 5000) / 100),
        "danger_at": NOON + timedelta(seconds=(2 * MB - 5000) / 100),
        "lost_at": NOON + timedelta(seconds=100),
    }
    assert other["forecast"] == {"warning_at": None, "danger_at": None, "lost_at": None}


def test_a_source_without_slots_has_no_level(api: Api) -> None:
    api.filled()
    assert api.get(SOURCE_WAL).json() == {
        "level": None,
        "trouble_since": None,
        "warning_mb": 3000,
        "danger_mb": 6000,
        "slots": [],
    }


def test_what_is_reached_is_reached_now_and_what_is_a_year_away_is_not_told() -> None:
    slot = {"growth_bytes_per_second": 1.0, "recorded_at": NOON, "retained_bytes": MB, "dies_in_seconds": 0.0}
    seen = forecast(slot, Thresholds(1, 100))
    assert (seen.warning_at, seen.danger_at, seen.lost_at) == (NOON, None, NOON)
    shrinks = forecast(slot | {"growth_bytes_per_second": -1.0, "dies_in_seconds": None}, Thresholds(2, 3))
    assert (shrinks.warning_at, shrinks.danger_at, shrinks.lost_at) == (None, None, None)
