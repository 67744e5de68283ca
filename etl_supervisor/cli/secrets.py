"""`rotate-secrets`: everything in the config database under SECRET_KEY, what SECRET_KEY_PREVIOUS opens and what stands in clear too."""

from __future__ import annotations

from rich.console import Console

from etl_supervisor.config.settings import Settings
from etl_supervisor.repository.secrets import rotate


def run(settings: Settings, console: Console) -> bool:
    """Rotate and say what was done; False when a secret does not open with any key. It may be run again at any time."""
    done = rotate(settings)
    for trouble in done.troubles:
        console.print(trouble.line, style="red", markup=False, soft_wrap=True)
    console.print(f"{done.rewritten} encrypted anew, {done.current} current already, {len(done.troubles)} left alone")
    return not done.troubles
