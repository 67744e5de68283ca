"""Sessions that change a database all the time. What the nth transaction of a session does is decided by the seed and n alone,
whether or not those before it were committed: a server that crashes takes a transaction away, not the decisions after it.

    small    a few rows: inserts, updates that leave TOAST alone, key changes, deletes, now and then a truncate
    large    a few hundred rows in savepoints, some rolled back, some whole transactions too; PostgreSQL streams them in progress
    shape    columns added (with rows before and after), dropped, renamed, widened, retyped; tables added and dropped
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import psycopg
from psycopg import sql

from tests.support.fix_postgres import Database
from tests.support.load import neighbours

ROWS = 600
LITTLE_MEMORY = "64kB"  # the least that PostgreSQL takes; a transaction with more than that of changes is streamed
STEP_ROWS = 60
BAND = 10_000  # ids of the large session's rows
ADDED_COLUMNS_MAX, ADDED_TABLES_MAX = 4, 2
RECONNECT_SECONDS = 0.2
# Seconds; the local Snowflake, which does one statement at a time, has to keep up.
PAUSES = {"small": 0.3, "large": 4.0, "shape": 6.0}

MADE = f"""
create table items (id int primary key, n int, note varchar(40), big text, at timestamptz default now());
alter table items alter big set storage external;
create table pairs (a int, b text, v numeric(10,2), primary key (a, b));
create table docs (id int primary key, body jsonb, tags text[], raw bytea);
alter table docs replica identity full;
create table markers (n int primary key, at timestamptz default clock_timestamp());
insert into items select g, g, 'n' || g, repeat(md5(g::text), 70) from generate_series(1, {ROWS}) g;
insert into pairs select g, 'b' || g, g / 3.0 from generate_series(1, {ROWS}) g;
insert into docs select g, jsonb_build_object('g', g), array['a', g::text], decode(md5(g::text), 'hex') from generate_series(1, {ROWS}) g;
create publication p for all tables;
"""

Connection = psycopg.Connection[tuple[object, ...]]
Transaction = Callable[[Connection, random.Random], bool]


def prepare(database: Database) -> None:
    """The tables that there are at the beginning."""
    database.execute(MADE)
    database.execute(f"alter database {database.name} set logical_decoding_work_mem = '{LITTLE_MEMORY}'")


@dataclass
class Workload:
    """Sessions on one database; `done` counts transactions that were committed, `lost` those that an error took. While `resting` they wait: a machine
    that is too slow for them could not show a recovery."""

    database: Database
    seed: int
    done: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    resting: bool = False
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self) -> None:
        """All sessions."""
        for name, transaction in (("small", small), ("large", large), ("shape", shape)):
            thread = threading.Thread(target=self._session, args=(name, transaction), daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """End them and wait for it."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _session(self, name: str, transaction: Transaction) -> None:
        number = 0
        while not self._stop.is_set():
            try:
                with psycopg.connect(self.database.dsn, options="-c lock_timeout=3s") as connection:
                    while not self._stop.wait(PAUSES[name]):
                        if self.resting:
                            continue
                        number += 1
                        self._one(name, connection, transaction, random.Random(f"{self.seed}/{name}/{number}"))
            except psycopg.OperationalError:  # the server is gone: again, from the next transaction on
                self.lost[name] += 1
                self._stop.wait(RECONNECT_SECONDS)

    def _one(self, name: str, connection: Connection, transaction: Transaction, chance: random.Random) -> None:
        try:
            keep = transaction(connection, chance)
            (connection.commit if keep else connection.rollback)()
            self.done[name] += 1
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected, psycopg.errors.UniqueViolation):
            connection.rollback()
            self.lost[name] += 1
        except psycopg.errors.UndefinedTable:  # another session has just dropped it
            connection.rollback()
            self.lost[name] += 1


def small(connection: Connection, chance: random.Random) -> bool:
    """A few rows of the tables of all days, and of one that was added."""
    for _ in range(chance.randint(1, 8)):
        number, value = chance.randint(1, ROWS), chance.randint(1, 1_000_000)
        match chance.randint(0, 11):
            case 0:
                connection.execute(
                    "insert into items values (%s, 1, 'new', repeat(md5(%s::text), 70)) on conflict (id) do nothing",
                    [chance.randint(ROWS, ROWS * 5), value],
                )
            case 1:
                connection.execute("delete from items where id = %s", [number])
            case 2:
                connection.execute(
                    "update items set id = -id where id = %s and not exists (select from items where id = -%s)",
                    [number, number],
                )
            case 3:
                connection.execute("update items set big = repeat(md5(%s::text), 70) where id = %s", [value, number])
            case 4:
                connection.execute("insert into pairs values (%s, 'z', 1) on conflict do nothing", [number])
            case 5:
                connection.execute("update pairs set b = b || 'k', v = v + 1 where a = %s and length(b) < 9", [number])
            case 6:
                connection.execute(
                    "insert into docs values (%s, jsonb_build_object('v', %s::int), array['x'], '\\x00ff')"
                    " on conflict (id) do update set body = excluded.body, raw = null",
                    [number, value],
                )
            case 7 if chance.random() < 0.02:
                connection.execute(sql.SQL("truncate {}").format(sql.Identifier(chance.choice(["pairs", "docs"]))))
            case 8:
                _change_added(connection, chance, value)
            case _:
                connection.execute("update items set n = n + 1 where id = %s", [number])
    return True


def large(connection: Connection, chance: random.Random) -> bool:
    """Several steps in savepoints, some rolled back; False: the whole transaction is not wanted."""
    for _ in range(chance.randint(2, 3)):
        with connection.transaction():
            neighbours(connection, chance.randint(BAND, BAND + 10 * STEP_ROWS), STEP_ROWS, chance.choice("iudk"))
            with connection.transaction():
                neighbours(connection, chance.randint(BAND, BAND + 10 * STEP_ROWS), STEP_ROWS, chance.choice("iudk"))
                if chance.random() < 0.4:
                    raise psycopg.Rollback
    return chance.random() < 0.8


def shape(connection: Connection, chance: random.Random) -> bool:
    """One change of shape, between changes of rows in the same transaction."""
    table = chance.choice(["items", "pairs", "docs"])
    added = _added_columns(connection, table)
    number = chance.randint(1, 1_000_000)
    small(connection, chance)
    match chance.randint(0, 9):
        case 0 | 1 | 2 if len(added) < ADDED_COLUMNS_MAX:
            kind = chance.choice(["int default 7", "text", "numeric(12,3) default 1.5", "text default 'd'"])
            _alter(connection, table, f"add column c{number} {kind}")
        case 3 | 4 if added:
            _alter(connection, table, f"drop column {chance.choice(added)}")
        case 5 if added:
            _alter(connection, table, f"rename column {chance.choice(added)} to c{number}")
        case 6 if table == "items":
            _alter(connection, table, f"alter note type varchar({min(4000, 40 + number % 4000)})")
        case 7 if chance.random() < 0.3:
            _alter(connection, "items", f"alter n type {chance.choice(['int', 'bigint'])}")
        case _:
            _add_or_drop_table(connection, chance, number)
    small(connection, chance)
    return chance.random() < 0.9


def _alter(connection: Connection, table: str, what: str) -> None:
    connection.execute(f"alter table {table} {what}".encode())
    columns = _added_columns(connection, table)
    if columns:  # numbers are a text, a number and an integer
        key = {"items": "id", "pairs": "a", "docs": "id"}[table]
        connection.execute(f"update {table} set {columns[-1]} = '8' where {key} % 97 = 3".encode())


def _added_columns(connection: Connection, table: str) -> list[str]:
    rows = connection.execute(
        "select attname from pg_attribute where attrelid = %s::regclass and attnum > 0 and not attisdropped"
        " and attname ~ '^c[0-9]+$' order by attnum",
        [table],
    ).fetchall()
    return [str(name) for (name,) in rows]


def _added_tables(connection: Connection) -> list[str]:
    rows = connection.execute(
        "select tablename from pg_tables where tablename like 'added_%' order by tablename"
    ).fetchall()
    return [str(name) for (name,) in rows]


def _add_or_drop_table(connection: Connection, chance: random.Random, number: int) -> None:
    added = _added_tables(connection)
    if len(added) >= ADDED_TABLES_MAX:
        connection.execute(f"drop table {chance.choice(added)}".encode())
        return
    connection.execute(f"create table added_{number} (id int primary key, n int, note text)".encode())
    connection.execute(f"insert into added_{number} select g, g, repeat('a', g) from generate_series(1, 50) g".encode())


def _change_added(connection: Connection, chance: random.Random, value: int) -> None:
    if added := _added_tables(connection):
        table = chance.choice(added)
        connection.execute(
            f"insert into {table} values (%s, %s, 'more') on conflict (id) do update set n = excluded.n".encode(),
            [chance.randint(1, 80), value],
        )
