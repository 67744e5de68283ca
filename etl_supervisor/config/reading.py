"""Where values of settings are read: the environment, a `.env` file, YAML files. A key that is not known is refused with the nearest one."""

from __future__ import annotations

import difflib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dotenv
import dotenv.parser
import yaml

from etl_supervisor.errors import EtlError, Kind

_OUR_PREFIXES = (
    "ETL_",
    "SNOWFLAKE_",
    "PIPELINE_",
    "WAL_MONITOR_",
    "CONFIG_DB_",
    "DB_",
    "APP_",
    "SHARED_MEMORY_",
    "BATCH_",
    "COPY_",
    "ALERT_",
    "API_",
    "MASKING_",
)
_ALIASES = {"APP_ENV": "APP_ENVIRONMENT"}
_NOT_SETTINGS = frozenset({"ETL_FAILPOINTS", "ETL_FAILPOINTS_LOG", "ETL_PG_BINDIR"})


class Reading:
    """Values by the upper-case name of their setting, each with the place where it stood. `names` are all settings, in lower case."""

    def __init__(self, names: frozenset[str]) -> None:
        self._names = names

    def from_environment(self, environment: Mapping[str, str]) -> dict[str, tuple[Any, str]]:
        """Our variables; those of others are none of our business. APP_SECTION__FIELD must be one of ours."""
        found = {}
        for key, value in environment.items():
            name = _ALIASES.get(key, key)
            if key.startswith("APP_") and "__" in key:
                name = key.removeprefix("APP_").replace("__", "_")
                self._must_be_known(name, key, "the environment")
            if name.lower() in self._names and value != "":
                found[name] = (value, "the environment")
        return found

    def from_env_file(self, path: Path) -> dict[str, tuple[Any, str]]:
        """Settings of a `.env`; of other keys those that look like ours must be known."""
        found = {}
        text = _text_of(path)
        for binding in dotenv.parser.parse_stream(io.StringIO(text)):
            if binding.error:
                line = binding.original.line
                raise EtlError(Kind.CONFIG, str(path), f"line {line} can't be read", "write KEY=value")
        for key, value in dotenv.dotenv_values(stream=io.StringIO(text)).items():
            name = _ALIASES.get(key, key)
            if key.startswith("APP_") and "__" in key:
                name = key.removeprefix("APP_").replace("__", "_")
            if key.startswith(_OUR_PREFIXES) and name not in _NOT_SETTINGS:
                self._must_be_known(name, key, str(path))
            if name.lower() in self._names and value:
                found[name] = (value, str(path))
        return found

    def from_yaml(self, path: Path) -> dict[str, tuple[Any, str]]:
        """Settings of a YAML file, sections flattened."""
        try:
            content = yaml.safe_load(_text_of(path)) or {}
        except yaml.YAMLError:
            raise EtlError(Kind.CONFIG, str(path), "the file is not YAML", "correct its syntax") from None
        return {name: (value, str(path)) for name, value in self._flattened(content, "", path)}

    def _flattened(self, content: object, prefix: str, path: Path) -> list[tuple[str, Any]]:
        if not isinstance(content, dict):
            raise EtlError(Kind.CONFIG, str(path), "the file holds no mapping", "write `section: {field: value}`")
        flat: list[tuple[str, Any]] = []
        for key, value in content.items():
            name = f"{prefix}{key}".upper()
            if isinstance(value, dict):
                flat += self._flattened(value, f"{name}_", path)
            else:
                self._must_be_known(_ALIASES.get(name, name), name, str(path))
                flat.append((_ALIASES.get(name, name), value))
        return flat

    def _must_be_known(self, name: str, key: str, where: str) -> None:
        if name.lower() not in self._names:
            near = self._nearest(name)
            remedy = f"did you mean {near}?" if near else "see docs/configuration.md for what there is"
            raise EtlError(Kind.CONFIG, key, f"unknown setting in {where}", remedy)

    def _nearest(self, name: str) -> str | None:
        found = difflib.get_close_matches(name, [known.upper() for known in self._names], n=1, cutoff=0.8)
        return found[0] if found else None


def _text_of(path: Path) -> str:
    """The text of a file, empty when there is none."""
    try:
        return path.read_text(encoding="utf-8") if path.exists() else ""
    except (OSError, UnicodeDecodeError):
        remedy = "make it UTF-8 text that this user may read"
        raise EtlError(Kind.CONFIG, str(path), "the file can't be read", remedy) from None
