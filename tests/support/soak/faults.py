"""How each fault begins and ends: a generator that begins it, yields the seconds that it lasts, and ends it when it is continued.

    kill, stop          SIGKILL; SIGSTOP, later SIGCONT
    crash, restart      SIGKILL of a server (PostgreSQL: an immediate shutdown); a shutdown in order; it is started again at the end
    cut, refuse         every connection of an edge is reset; new ones too
    hold, slow          an edge is a black hole, which heals or is cut at the end; every piece waits
    answer              the local Snowflake answers requests wrongly, late or not at all, with the work done or not
    end                 PostgreSQL ends sessions of ours
    full                a transaction of 5 MB meets a disk of 1 MiB, or a budget of 4 MiB, while Snowflake does not answer; struck when the
                        reader has ended for want of room, or has filled three quarters of the budget
    flush               the state store forgets everything
    clock               the wall clock of the supervisor and its children is 50 minutes ahead or behind, and right again at the end

One that finds nobody to hit (no copy runs, say) raises `NobodyError`; it is not counted.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import psycopg
import redis

from tests.support.fix_deployment import POLL_SECONDS
from tests.support.soak.plan import Fault
from tests.support.soak.world import SOURCES, World

SLOW_SECONDS = (0.02, 0.1, 0.3)  # of each piece of up to 64 KiB
HITS_MAX = 8  # requests that one fault of the local Snowflake hits
ROWS = "/(rows|filebuffer|query-request)$"
ANSWERS: dict[str, dict[str, Any]] = {
    "429": {"path": ".*", "status": 429, "headers": {"retry-after": "1"}},
    "503": {"path": ".*", "status": 503},
    "late": {"path": ROWS, "delay_s": 3.0},
    "lost": {"path": ROWS, "status": 503, "apply": True},
    "dropped": {"path": ROWS, "drop": True, "apply": True},
    "channel": {"path": "/(rows|filebuffer)$", "status": 400, "body": {"code": "ERR_INJECTED", "message": ""}},
}
SESSIONS = {
    "walsender": "select pg_terminate_backend(pid) from pg_stat_replication",
    "sessions": "select pg_terminate_backend(pid) from pg_stat_activity"
    " where backend_type = 'client backend' and application_name like 'etl%' and pid <> pg_backend_pid()",
}
JUMPS = {"ahead": 3000, "behind": -3000}  # seconds; less than tokens live
TIGHT = {"spill": {"SPOOL_DISK_MB": "1"}, "memory": {"SHARED_MEMORY_BUDGET_MB": "4"}}
BULK = """
insert into bulk select g, repeat(md5(g::text || clock_timestamp()), 32) from generate_series(1, 5000) g
on conflict (id) do update set body = excluded.body
"""  # 5 MB, more than either; rows of 1 kB are not compressed
NO_ROOM = '"kind":"spool","place":"source {}"'
SLAB, SLAB_BYTES, BLOCK_BYTES = "memfd:etl-slab", 4 << 20, 512
NEAR = 0.75  # of the budget: a piece may be as large as the last quarter
REACH_SECONDS_MAX = 20.0  # a reader has started again, and has read the transaction


class NobodyError(Exception):
    """There is nobody whom this fault could hit now."""


Striking = Generator[float, None, None]


def strike(world: World, fault: Fault) -> Striking:
    """Begin a fault with the first `next`, end it with the second."""
    return STRIKES[fault.kind](world, fault)


def _victim(world: World, fault: Fault) -> int:
    supervisor = world.deployment.supervisor
    assert supervisor is not None
    if fault.target == "supervisor":
        return supervisor.pid
    children = world.deployment.children().items()
    there = sorted(pid for name, pid in children if name.startswith(f"etl-{fault.target}"))
    if not there:
        raise NobodyError
    return there[int(fault.choice * len(there))]


def _kill(world: World, fault: Fault) -> Striking:
    with contextlib.suppress(ProcessLookupError):
        os.kill(_victim(world, fault), signal.SIGKILL)
    yield 0.0
    world.revive()


def _stop(world: World, fault: Fault) -> Striking:
    try:
        process = os.pidfd_open(_victim(world, fault))
        signal.pidfd_send_signal(process, signal.SIGSTOP)
    except ProcessLookupError:
        raise NobodyError from None
    yield fault.seconds
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(process, signal.SIGCONT)
    os.close(process)


def _crash(world: World, fault: Fault) -> Striking:
    world.crash(fault.target)
    yield min(fault.seconds, 2.5)
    world.start_server(fault.target)


def _restart(world: World, fault: Fault) -> Striking:
    if fault.target == "supervisor":
        assert world.deployment.supervisor is not None
        world.deployment.supervisor.send_signal(signal.SIGTERM)  # it drains, and is started again when it has ended
        yield 0.0
        return
    world.servers[fault.target].stop()
    yield min(fault.seconds, 1.0)
    world.start_server(fault.target)


def _cut(world: World, fault: Fault) -> Striking:
    if not world.proxies[fault.target].cut():
        raise NobodyError
    yield 0.0


def _refuse(world: World, fault: Fault) -> Striking:
    proxy = world.proxies[fault.target]
    proxy.refusing = True
    proxy.cut()
    yield fault.seconds
    proxy.refusing = False


def _hold(world: World, fault: Fault) -> Striking:
    proxy = world.proxies[fault.target]
    proxy.hold()
    yield fault.seconds
    if fault.choice < 0.5:  # what waited is lost with the connections; otherwise it arrives now
        proxy.cut()
    proxy.release()


def _slow(world: World, fault: Fault) -> Striking:
    proxy = world.proxies[fault.target]
    proxy.delay_seconds = SLOW_SECONDS[int(fault.choice * len(SLOW_SECONDS))]
    yield fault.seconds
    proxy.delay_seconds = 0.0


def _answer(world: World, fault: Fault) -> Striking:
    wrong = {**ANSWERS[fault.target], "count": 1 + int(fault.choice * HITS_MAX)}
    world.answers.append(wrong)
    world.behave()
    yield fault.seconds
    world.answers.remove(wrong)
    world.behave()


def _end(world: World, fault: Fault) -> Striking:
    try:
        ended = world.deployment.source.execute(SESSIONS[fault.target])
    except psycopg.OperationalError:  # it is down just now
        raise NobodyError from None
    if not ended:
        raise NobodyError
    yield 0.0


def _full(world: World, fault: Fault) -> Striking:
    """The readers begin again with less room: settings are read by children that start. Nothing becomes durable meanwhile, so whoever reads the
    transaction has to keep it."""
    world.proxies["snowflake"].hold()
    source, logged = SOURCES[int(fault.choice * len(SOURCES))], len(world.deployment.log)
    no_room = NO_ROOM.format(
        source
    )  # the other's reader may have to read an earlier transaction again, and have none either
    reached = {"spill": lambda: no_room in world.deployment.log[logged:], "memory": lambda: _in_flight(world)}
    try:
        world.deployment.pipelines[source].execute(BULK)
        world.write_settings(TIGHT[fault.target])
        _kill_readers(world)
        _await(world, reached[fault.target])
    except (NobodyError, psycopg.OperationalError):  # it was not reached; PostgreSQL is down just now
        _give_room(world)
        raise NobodyError from None
    yield fault.seconds
    _give_room(world)


def _give_room(world: World) -> None:
    world.proxies["snowflake"].release()
    world.write_settings({})
    _kill_readers(world)


def _await(world: World, reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + REACH_SECONDS_MAX
    while not reached():
        if time.monotonic() > deadline:
            raise NobodyError
        world.revive()
        time.sleep(POLL_SECONDS)


def _in_flight(world: World) -> bool:
    """Whether a reader with the small budget has most of it in use. Its slab tells, also while the monitor is dead or the clock is wrong: a page is
    taken when it is first written."""
    readers = [pid for name, pid in world.deployment.children().items() if name.startswith("etl-reader")]
    slabs = [slab for pid in readers for slab in _slabs(pid)]
    return any(slab.st_size == SLAB_BYTES and slab.st_blocks * BLOCK_BYTES >= NEAR * SLAB_BYTES for slab in slabs)


def _slabs(pid: int) -> list[os.stat_result]:
    try:
        return [fd.stat() for fd in Path(f"/proc/{pid}/fd").iterdir() if SLAB in os.readlink(fd)]
    except OSError:  # it has ended, or has closed one meanwhile
        return []


def _flush(world: World, fault: Fault) -> Striking:
    try:
        with redis.Redis.from_url(world.valkey.url) as store:
            store.flushall()
    except redis.RedisError:  # it is down just now
        raise NobodyError from None
    yield 0.0


def _clock(world: World, fault: Fault) -> Striking:
    if world.clock is None:
        raise NobodyError
    world.clock.set(JUMPS[fault.target])
    yield fault.seconds
    world.clock.set(0)


def _kill_readers(world: World) -> None:
    for name, pid in world.deployment.children().items():
        if name.startswith("etl-reader"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


STRIKES: dict[str, Callable[[World, Fault], Striking]] = {
    "kill": _kill,
    "stop": _stop,
    "crash": _crash,
    "restart": _restart,
    "cut": _cut,
    "refuse": _refuse,
    "hold": _hold,
    "slow": _slow,
    "answer": _answer,
    "end": _end,
    "full": _full,
    "flush": _flush,
    "clock": _clock,
}
