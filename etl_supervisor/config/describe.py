"""The settings as the documentation lists them."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import SecretStr

from etl_supervisor.config.settings import Settings, allowed


@dataclass(frozen=True, slots=True)
class SettingDoc:
    """A setting as the documentation lists it."""

    name: str
    default: str
    allowed: str
    reason: str


def describe() -> list[SettingDoc]:
    """All settings, in the order of the documentation."""
    docs = []
    for name, field in Settings.model_fields.items():
        if field.exclude:
            continue
        default = field.default.get_secret_value() if isinstance(field.default, SecretStr) else field.default
        docs.append(
            SettingDoc(name.upper(), "" if default is None else str(default), allowed(name), field.description or "")
        )
    return docs
