"""Files of the machine that a body may name, and those that it may not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.api.test_resources import error
from tests.support.fix_api import DESTINATION, SOURCE, Api

HOME = "a file that is named by the API must be in API_KEY_DIRECTORY"
KEYED = "snowflake_private_key_path"


@pytest.fixture
def api(api_server: Callable[..., Api], tmp_path: Path) -> Api:
    """With a directory of keys: `good.p8`, links within and out of it, and a key of tenant acme."""
    keys = tmp_path / "keys"
    (keys / "acme").mkdir(parents=True)
    (keys / "acme" / "own.p8").write_text("key")
    (keys / "good.p8").write_text("key")
    (keys / "within.p8").symlink_to("good.p8")
    (keys / "out.p8").symlink_to("/etc/hostname")
    (keys / "acme" / "up").symlink_to(keys)
    return api_server(API_KEY_DIRECTORY="keys", API_RATE_LIMIT="0")


def refused(field: str, reason: str) -> tuple[int, str, str, dict[str, Any]]:
    return 422, "ValidationError", f"{field}: {reason}", {"errors": [{"field": field, "reason": reason}]}


def test_a_key_is_named_within_its_directory_alone(api: Api, tmp_path: Path) -> None:
    made = []
    for number, path in enumerate(
        ("keys/good.p8", "keys/within.p8", "keys/not-there-yet.p8", str(tmp_path / "keys/good.p8"))
    ):
        made.append(
            api.post("/api/v1/destinations", json=DESTINATION | {"name": f"d{number}", KEYED: path}).status_code
        )
    assert made == [201] * 4
    for path in ("/etc/hostname", ".env", "keys/../.env", "keys/out.p8", "good.p8"):
        body = DESTINATION | {"name": "other", KEYED: path}
        assert error(api.post("/api/v1/destinations", json=body)) == refused(KEYED, HOME), path
        assert error(api.patch("/api/v1/destinations/1", json={KEYED: path})) == refused(KEYED, HOME), path
    assert api.get("/api/v1/destinations/1").json()[KEYED] == "keys/good.p8"
    assert len(api.get("/api/v1/audit-log").json()["items"]) == 4, "what was refused is not in it"


def test_a_key_of_a_tenant_names_files_of_its_own_subdirectory(api: Api) -> None:
    with api.as_("admin", "acme") as acme:
        assert acme.post("/api/v1/destinations", json=DESTINATION | {KEYED: "keys/acme/own.p8"}).status_code == 201
        for path in ("keys/good.p8", "keys/acme/../good.p8", "keys/acme/up/good.p8", "keys/acme2/own.p8"):
            answer = acme.patch("/api/v1/destinations/1", json={KEYED: path})
            assert error(answer) == refused(KEYED, f"{HOME}/acme"), path
    assert api.patch("/api/v1/destinations/1", json={KEYED: "keys/good.p8"}).status_code == 200
    with api.as_("admin", "acme") as acme:
        whole = {key: value for key, value in acme.get("/api/v1/destinations/1").json().items() if key in DESTINATION}
        again = acme.put("/api/v1/destinations/1", json=whole | {"snowflake_role": "OTHER"})
        assert again.json()["snowflake_role"] == "OTHER", "what stood there before is not asked about"


def test_the_files_of_a_source_are_in_the_directory_too(api: Api) -> None:
    allowed = {"pg_tls_ca": "system", "primary_url": "postgresql://u:geheim@h/d?sslrootcert=keys/good.p8"}
    assert api.post("/api/v1/sources", json=SOURCE | allowed).status_code == 201
    assert error(api.patch("/api/v1/sources/1", json={"pg_tls_ca": "/etc/hostname"})) == refused("pg_tls_ca", HOME)
    for url in (
        "postgresql://u@h/d?sslrootcert=/etc/hostname",
        "host=h sslkey=/etc/hostname",
        "host=h passfile=/etc/hostname",
        "service=other",
    ):
        assert error(api.patch("/api/v1/sources/1", json={"primary_url": url})) == refused("primary_url", HOME), url


def test_a_primary_url_that_can_not_be_read_is_told_without_it(api: Api) -> None:
    answer = api.post("/api/v1/sources", json=SOURCE | {"primary_url": "postgresql://u:geheim@[h/d"})
    reason = "it can't be read; write it as postgresql://user:password@host:port/database"
    assert error(answer) == refused("primary_url", reason)
    assert "geheim" not in answer.text + api.log


def test_the_authority_of_a_destination_is_in_the_directory_too(api: Api) -> None:
    body = DESTINATION | {KEYED: "keys/good.p8", "settings": {"ca_file": "/etc/hostname"}}
    assert error(api.post("/api/v1/destinations", json=body)) == refused("settings.ca_file", HOME)


def test_a_unix_socket_is_not_for_keys_of_a_tenant(api: Api) -> None:
    reason = "a unix socket is not for keys of a tenant"
    changes = [("pg_host", host) for host in ("/var/run/postgresql", "h,/tmp", "h,", "@x")]
    changes += [("primary_url", url) for url in ("host=@x", "postgresql://u@%2Ftmp/d", "dbname=d", " ")]
    with api.as_("admin", "acme") as acme:
        assert acme.post("/api/v1/sources", json=SOURCE).status_code == 201
        for field, value in changes:
            assert error(acme.patch("/api/v1/sources/1", json={field: value})) == refused(field, reason), value
        good = {"pg_host": "a,b", "primary_url": "hostaddr=192.0.2.1"}
        assert acme.patch("/api/v1/sources/1", json=good).status_code == 200
    for field, value in changes:
        assert api.patch("/api/v1/sources/1", json={field: value}).status_code == 200, value


def test_what_is_written_by_sql_is_the_operators(api: Api) -> None:
    assert api.post("/api/v1/destinations", json=DESTINATION | {KEYED: "keys/good.p8"}).status_code == 201
    api.database.execute("update app.destinations set snowflake_private_key_path = '/etc/ssl/key.p8'")
    changed = api.patch("/api/v1/destinations/1", json={KEYED: "/etc/ssl/key.p8", "snowflake_role": "OTHER"})
    assert (changed.status_code, changed.json()["snowflake_role"]) == (200, "OTHER")
