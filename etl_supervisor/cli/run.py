"""`run` on a machine that has nothing: the supervisor with embedded parts, and a demo shop whose data lives on."""

from __future__ import annotations

import ctypes
import os
import random
import signal
import time
from pathlib import Path

import multiprocess
import psycopg
from rich.console import Console

from etl_supervisor.cli import running
from etl_supervisor.cli.start import supervise
from etl_supervisor.config.settings import Settings, load
from etl_supervisor.embedded.shop import SHOP_PUBLICATION, create_shop, trickle
from etl_supervisor.embedded.stack import SNOWFLAKE_DATABASE, EmbeddedStack
from etl_supervisor.exits import Exit

SHOP = "shop"
TRICKLE_SECONDS = 0.5  # between two small transactions of the demo shop: enough to see it move
APPLY_SECONDS = 2.0

console = Console(stderr=True)


def run_embedded(settings: Settings) -> Exit:
    """The supervisor in the foreground, with everything it needs beside it."""
    console.print("[bold]No DATABASE_URL: starting PostgreSQL, Valkey and a local Snowflake of our own.[/]")
    with EmbeddedStack(Path(settings.directory, settings.data_directory)) as stack:
        ours = with_stack(settings, stack)
        rows = create_shop(stack.postgres.create_database(SHOP))
        stack.configure(ours, source=SHOP, database=SHOP, publication=SHOP_PUBLICATION, apply_seconds=APPLY_SECONDS)
        customers = _customers(stack.postgres.dsn(SHOP))
        try:
            return supervise(ours, on_ready=lambda: _banner(ours, stack, rows))
        finally:
            running.forget(stack.directory)
            customers.terminate()
            customers.join()


def with_stack(settings: Settings, stack: EmbeddedStack) -> Settings:
    """The settings with the embedded parts in them; a second terminal finds them too."""
    environment = stack.environment()
    running.write(stack.directory, environment)
    return load(settings.directory, {**os.environ, **environment})


def _customers(dsn: str) -> multiprocess.Process:
    """A process that changes the shop a little, all the time."""
    process = multiprocess.get_context("fork").Process(target=_shop_is_open, args=(dsn,), daemon=True)
    process.start()
    return process


def _shop_is_open(dsn: str) -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    chance = random.Random()  # noqa: S311 - a demo's customers
    with psycopg.connect(dsn, autocommit=True) as connection:
        while True:
            trickle(connection, chance)
            time.sleep(TRICKLE_SECONDS)


def _banner(settings: Settings, stack: EmbeddedStack, rows: int) -> None:
    """What runs where, how to look, how to stop."""
    state = f"Valkey   127.0.0.1:{stack.valkey.port}" if stack.valkey else "PostgreSQL, schema etl"
    if stack.missing:
        console.print(f"[bold yellow]State is kept in PostgreSQL: {stack.missing}[/]")
    console.print()
    console.print(
        "[bold green]ETL Stream runs.[/]"
        + (f" The demo shop was made with {rows:,} rows." if rows else " It goes on where it stopped.")
    )
    console.print(f"  source       PostgreSQL 127.0.0.1:{stack.postgres.port}, database {SHOP}, a few changes a second")
    console.print(f"  destination  local Snowflake https://{stack.snowflake.host}, database {SNOWFLAKE_DATABASE}")
    console.print(f"  state        {state}")
    console.print(f"  metrics      http://{settings.metrics_addr.replace('[::]', '127.0.0.1')}/metrics")
    console.print()
    console.print("In a second terminal:")
    console.print("  .venv/bin/etl-supervisor status")
    console.print(f"  .venv/bin/etl-supervisor sql 'select count(*) from {SNOWFLAKE_DATABASE}.PUBLIC.ORDERS'")
    console.print("Ctrl-C drains and stops; the data stays in " + str(stack.directory) + ".")
    console.print()
