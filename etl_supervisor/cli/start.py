"""A supervisor in this process."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable

from etl_supervisor.config.settings import Settings
from etl_supervisor.errors import EtlError, Kind
from etl_supervisor.exits import Exit
from etl_supervisor.ipc import scratch
from etl_supervisor.monitor import logs
from etl_supervisor.supervision.supervisor import Supervisor

# Of any one process: each has the same limit. The actor needs most of the second, supervisor and readers the third.
DESCRIPTORS_OF_ANY, DESCRIPTORS_PER_CHANNEL, DESCRIPTORS_PER_ACTOR = 100, 2, 3


def supervise(
    settings: Settings, on_ready: Callable[[], None] = lambda: None, reread: Callable[[], Settings] | None = None
) -> Exit:
    """Run until told to stop; SIGHUP calls `reread`. The metrics files live in a private directory that goes with us.

    EtlError(CONFIG) where a process of ours may not have as many descriptors as it may need.
    """
    logs.configure(settings, process="supervisor")
    allow_descriptors(settings)
    with scratch.scratch(scratch.METRICS) as directory:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = directory
        return Supervisor(settings, on_ready=on_ready, reread=reread).run()


def descriptors_needed(settings: Settings) -> int:
    """How many descriptors one process may need."""
    channels = DESCRIPTORS_PER_CHANNEL * settings.snowflake_channels_max
    return DESCRIPTORS_OF_ANY + channels + DESCRIPTORS_PER_ACTOR * settings.snowflake_actor_pool_size


def allow_descriptors(settings: Settings) -> None:
    """Raise our limit as far as we may; our children have it, too. Better no start than children that fail one after the other."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    needed = descriptors_needed(settings)
    if most != resource.RLIM_INFINITY and most < needed:
        raise EtlError(
            Kind.CONFIG,
            "limit of open files",
            f"{most} are allowed to a process, {needed} may be needed",
            f"set it to {needed} or more (LimitNOFILE of systemd, --ulimit nofile of a container, ulimit -Hn),"
            " or lower SNOWFLAKE_CHANNELS_MAX or SNOWFLAKE_ACTOR_POOL_SIZE",
        )
