"""Where the embedded parts of this directory are, for a second terminal: `run` writes it down while it runs."""

from __future__ import annotations

import json
from pathlib import Path

from etl_supervisor.config.settings import Settings
from etl_supervisor.errors import EtlError, Kind

FILE = "running.json"


def write(directory: Path, environment: dict[str, str]) -> None:
    """Readable by us alone: it holds passwords."""
    path = directory / FILE
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_text(json.dumps(environment))


def forget(directory: Path) -> None:
    """Nothing runs here any more."""
    (directory / FILE).unlink(missing_ok=True)


def embedded_environment(settings: Settings) -> dict[str, str]:
    """What `run` wrote. EtlError(CONFIG) when nothing is configured and nothing was started."""
    path = Path(settings.directory, settings.data_directory, FILE)
    try:
        found: dict[str, str] = json.loads(path.read_text())
    except OSError:
        remedy = "set DATABASE_URL, or start the embedded parts with `make run`"
        raise EtlError(Kind.CONFIG, "settings", "no config database is set and none runs here", remedy) from None
    return found
