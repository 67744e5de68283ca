"""Settings: where they come from, and the one line that a wrong one gets."""

import pytest
from pydantic import ValidationError

from etl_supervisor.config.describe import describe
from etl_supervisor.config.settings import load
from etl_supervisor.errors import EtlError

KEY = "0123456789abcdef0123456789abcdef"


def trouble(tmp_path, environment=None):
    with pytest.raises(EtlError) as caught:
        load(tmp_path, environment or {})
    return caught.value.line


def test_defaults_are_those_of_the_documentation(tmp_path):
    settings = load(tmp_path, {})
    assert settings.embedded
    assert (settings.snowflake_actor_pool_size, settings.pipeline_poll_interval_secs) == (4, 5)
    assert settings.metrics_addr == "[::]:9000"


def test_the_real_environment_wins_over_env_file_over_yaml(tmp_path):
    (tmp_path / "configuration").mkdir()
    (tmp_path / "configuration/base.yaml").write_text(
        "snowflake: {actor_pool_size: 2}\nlog: {level: debug}\nwarning_wal: 7\n"
    )
    (tmp_path / "configuration/dev.yaml").write_text("snowflake: {actor_pool_size: 3}\n")
    (tmp_path / ".env").write_text("APP_ENV=dev\nDANGER_WAL=8\nPIPELINE_POLL_INTERVAL_SECS=9\n")
    settings = load(tmp_path, {"PIPELINE_POLL_INTERVAL_SECS": "10"})
    assert settings.snowflake_actor_pool_size == 3
    assert (settings.log_level, settings.warning_wal, settings.danger_wal) == ("DEBUG", 7, 8)
    assert settings.pipeline_poll_interval_secs == 10


def test_sections_may_be_given_as_variables(tmp_path):
    assert load(tmp_path, {"APP_SNOWFLAKE__ACTOR_POOL_SIZE": "6"}).snowflake_actor_pool_size == 6


@pytest.mark.parametrize("url", ["postgres://u:p@h/d", "postgresql://u:p@h/d", "postgresql+asyncpg://u:p@h/d"])
def test_every_form_of_database_url_is_accepted(tmp_path, url):
    assert load(tmp_path, {"DATABASE_URL": url}).config_dsn() == "postgresql://u:p@h/d"


def test_a_database_in_parts(tmp_path):
    settings = load(tmp_path, {"CONFIG_DB_HOST": "h", "CONFIG_DB_PASSWORD": "it's"})
    assert settings.config_dsn() == "host='h' port='5432' dbname='etl_config' user='postgres' password='it\\'s'"


def test_a_value_out_of_range_names_key_place_and_limits(tmp_path):
    assert trouble(tmp_path, {"SNOWFLAKE_ACTOR_POOL_SIZE": "0"}) == (
        "config at SNOWFLAKE_ACTOR_POOL_SIZE: Input should be greater than or equal to 1 (read from the environment)"
        " (allowed: integer, 1 to 64)"
    )


def test_a_misspelt_key_in_the_env_file_is_refused_with_a_proposal(tmp_path):
    (tmp_path / ".env").write_text("SNOWFLAKE_ACTOR_POOLSIZE=4\n")
    line = trouble(tmp_path)
    assert line.startswith("config at SNOWFLAKE_ACTOR_POOLSIZE: unknown setting in ")
    assert line.endswith("(did you mean SNOWFLAKE_ACTOR_POOL_SIZE?)")


def test_an_unknown_key_in_yaml_is_refused(tmp_path):
    (tmp_path / "configuration").mkdir()
    (tmp_path / "configuration/base.yaml").write_text("parrot: {colour: blue}\n")
    assert trouble(tmp_path).startswith("config at PARROT_COLOUR: unknown setting in ")


def test_foreign_variables_are_none_of_our_business(tmp_path):
    (tmp_path / ".env").write_text("SOMEBODY_ELSES=1\n")
    load(tmp_path, {"ANOTHER": "2"})


@pytest.mark.parametrize("name", ["SECRET_KEY", "DATABASE_URL", "REDIS_URL"])
def test_a_wrong_secret_is_never_repeated(tmp_path, name):
    line = trouble(tmp_path, {name: "hunter2-geheim"})
    assert "hunter2" not in line
    assert line.startswith(f"config at {name}: ")


def test_secrets_do_not_show_in_the_settings_text(tmp_path):
    settings = load(tmp_path, {"SECRET_KEY": KEY, "DATABASE_URL": "postgresql://u:geheim@h/d"})
    assert KEY not in repr(settings)
    assert "geheim" not in repr(settings)


def test_every_setting_is_documented():
    for doc in describe():
        assert doc.reason, doc.name
        assert doc.allowed, doc.name


@pytest.mark.parametrize(
    "url", ["redis://127.0.0.1", "rediss://u:p@h:6380/1", "unix:///run/redis.sock", "redis://[::1]:6379"]
)
def test_every_form_of_redis_url_is_accepted(tmp_path, url):
    assert load(tmp_path, {"REDIS_URL": url}).redis_url.get_secret_value() == url


def test_a_password_that_breaks_the_redis_url_is_not_repeated(tmp_path):
    assert trouble(tmp_path, {"REDIS_URL": "redis://:hunter/2@h:6379"}) == (
        "config at REDIS_URL: the host or port can't be read; / ? # @ in a password are written as %2F %3F %23 %40"
        " (read from the environment) (allowed: redis://, rediss:// or unix://)"
    )


@pytest.mark.parametrize("address", ["localhost", "localhost:99999", "localhost:0x50", ":"])
def test_a_metrics_address_is_host_and_port(tmp_path, address):
    assert trouble(tmp_path, {"METRICS_ADDR": address}) == (
        "config at METRICS_ADDR: a host and a port are needed (read from the environment) (allowed: host:port)"
    )


def test_a_warning_does_not_come_after_the_danger(tmp_path):
    assert trouble(tmp_path, {"WARNING_WAL": "9", "DANGER_WAL": "8"}) == (
        "config at DANGER_WAL: it is below WARNING_WAL (read from the environment) (allowed: integer, at least 1)"
    )


def test_a_warning_above_the_default_danger_is_refused(tmp_path):
    assert "DANGER_WAL: it is below WARNING_WAL (read from the default)" in trouble(tmp_path, {"WARNING_WAL": "6001"})


@pytest.mark.parametrize("name", [".env", "configuration/base.yaml"])
def test_a_file_that_is_no_text_is_one_clear_line(tmp_path, name):
    (tmp_path / "configuration").mkdir()
    (tmp_path / name).write_bytes(b"LOG_FILE: x\nLOG_LEVEL=\xff\xfe\n")
    assert (
        trouble(tmp_path)
        == f"config at {tmp_path / name}: the file can't be read (make it UTF-8 text that this user may read)"
    )


def test_a_file_that_is_no_yaml_is_one_clear_line(tmp_path):
    (tmp_path / "configuration").mkdir()
    (tmp_path / "configuration/base.yaml").write_text("snowflake: {")
    assert (
        trouble(tmp_path) == f"config at {tmp_path}/configuration/base.yaml: the file is not YAML (correct its syntax)"
    )


def test_a_line_of_the_env_file_without_an_equals_sign_is_refused(tmp_path):
    (tmp_path / ".env").write_text("LOG_LEVEL=INFO\nDATABASE_URL postgres://u:hunter2@h/d\n")
    assert trouble(tmp_path) == f"config at {tmp_path}/.env: line 2 can't be read (write KEY=value)"


def test_an_unknown_section_variable_is_refused(tmp_path):
    line = trouble(tmp_path, {"APP_SNOWFLAKE__ACTOR_POOLSIZE": "6"})
    assert line == (
        "config at APP_SNOWFLAKE__ACTOR_POOLSIZE: unknown setting in the environment"
        " (did you mean SNOWFLAKE_ACTOR_POOL_SIZE?)"
    )


def test_app_env_and_app_environment_are_one_setting(tmp_path):
    for name in ("APP_ENV", "APP_ENVIRONMENT"):
        assert load(tmp_path, {name: "development"}).app_environment == "dev"


def test_settings_can_not_be_changed(tmp_path):
    with pytest.raises(ValidationError, match="frozen"):
        load(tmp_path, {}).debug = True


def test_a_missing_secret_key_says_how_to_make_one(tmp_path):
    with pytest.raises(EtlError) as caught:
        load(tmp_path, {}).keyring()
    assert caught.value.line == (
        "config at SECRET_KEY: secrets at rest need a key"
        " (set SECRET_KEY (at least 32 characters), for example from: openssl rand -hex 32)"
    )


def test_a_collector_is_a_url_that_is_not_repeated(tmp_path):
    good = load(tmp_path, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}).otel_exporter_otlp_endpoint
    assert good.get_secret_value() == "http://collector:4318"
    with pytest.raises(EtlError) as caught:
        load(tmp_path, {"OTEL_EXPORTER_OTLP_ENDPOINT": "grpc://user:geheim@collector:4317"})
    assert caught.value.line == (
        "config at OTEL_EXPORTER_OTLP_ENDPOINT: it is no such URL (read from the environment) (allowed: http:// or https://)"
    )
