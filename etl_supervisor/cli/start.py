"""A supervisor in this process."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable

from etl_supervisor.config.settings import Settings
from etl_supervisor.exits import Exit
from etl_supervisor.ipc import scratch
from etl_supervisor.monitor import logs
from etl_supervisor.supervision.supervisor import Supervisor


def supervise(
    settings: Settings, on_ready: Callable[[], None] = lambda: None, reread: Callable[[], Settings] | None = None
) -> Exit:
    """Run until told to stop; SIGHUP calls `reread`. The metrics files live in a private directory that goes with us."""
    logs.configure(settings, process="supervisor")
    _, descriptors_max = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors_max, descriptors_max))  # its children have it too
    with scratch.scratch(scratch.METRICS) as directory:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = directory
        return Supervisor(settings, on_ready=on_ready, reread=reread).run()
