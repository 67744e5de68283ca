"""Sessions that change a database all the time. What the nth transaction of a session does is decided by the seed and n alone,
whether or not those before it were committed: a server that crashes takes a transaction away, not the decisions after it.

    small    a few rows: inserts, updates that leave TOAST alone, key changes, deletes, now and then a truncate
    large    a few hundred rows in savepoints, some rolled back, some whole transactions too; PostgreSQL streams them in progress, and one in eight is
             more than the reader keeps in memory
    shape    columns added (with rows before and after), dropped, renamed, widened, retyped; tables added and dropped

What has occurred is counted (`ACTS`), of a transaction once it is committed.
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
BAND, SPOOLED_BAND = 10_000, 20_000  # ids of the large session's rows
BIG_BYTES = 70 * 32  # of a value of `big`
SPOOLED_ROWS, SPOOLED_SHARE = (
    700,
    0.125,
)  # with values of that size: half as much again as the SPOOL_MEMORY_MB of the world
ADDED_COLUMNS_MAX, ADDED_TABLES_MAX = 4, 2
RECONNECT_SECONDS = 0.2
# Seconds; the local Snowflake, which does one statement at a time, has to keep up, with time left in which something can recover.
PAUSES = {"small": 0.4, "large": 5.0, "shape": 8.0}

TRUNCATE, KEY_CHANGE, SHAPE = "truncate", "key change", "change of shape"
ROLLBACK, SAVEPOINT = "rollback", "rollback to a savepoint"
SPOOLED, STREAMED = "transaction beyond SPOOL_MEMORY_MB", "transaction streamed in progress"
ACTS = (TRUNCATE, KEY_CHANGE, SHAPE, ROLLBACK, SAVEPOINT, SPOOLED, STREAMED)

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

STREAMED_SO_FAR = """
select coalesce(sum(s.stream_txns), 0) from pg_stat_replication_slots s join pg_replication_slots r using (slot_name)
where r.database = current_database()
"""

Connection = psycopg.Connection[tuple[object, ...]]
Acts = Counter[str]
Transaction = Callable[[Connection, random.Random, Acts], bool]


def prepare(database: Database) -> None:
    """The tables that there are at the beginning."""
    database.execute(MADE)
    database.execute(f"alter database {database.name} set logical_decoding_work_mem = '{LITTLE_MEMORY}'")


@dataclass
class Workload:
    """Sessions on one database; `done` counts transactions that were brought to their end, `lost` those that an error took, `acts` what was in them.
    While `resting` they wait: a machine that is too slow for them could not show a recovery."""

    database: Database
    seed: int
    done: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    acts: Acts = field(default_factory=Counter)
    resting: bool = False
    _streamed: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self) -> None:
        """All sessions."""
        for name in TRANSACTIONS:
            thread = threading.Thread(target=self._session, args=(name,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """End them and wait for it."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _session(self, name: str) -> None:
        number = 0
        while not self._stop.is_set():
            try:
                with psycopg.connect(self.database.dsn, options="-c lock_timeout=3s") as connection:
                    while not self._stop.wait(PAUSES[name]):
                        if self.resting:
                            continue
                        number += 1
                        self._one(name, number, connection)
                        if name == "large":
                            self._note_streamed(connection)
            except psycopg.OperationalError:  # the server is gone: again, from the next transaction on
                self.lost[name] += 1
                self._stop.wait(RECONNECT_SECONDS)

    def _one(self, name: str, number: int, connection: Connection) -> None:
        try:
            keep, acts = transact(self.seed, name, number, connection)
            (connection.commit if keep else connection.rollback)()
            self.done[name] += 1
            self.acts.update(acts if keep else [ROLLBACK])
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected, psycopg.errors.UniqueViolation):
            connection.rollback()
            self.lost[name] += 1
        except psycopg.errors.UndefinedTable:  # another session has just dropped it
            connection.rollback()
            self.lost[name] += 1

    def _note_streamed(self, connection: Connection) -> None:
        """Transactions that PostgreSQL has sent before their commit; it counts from zero again after a crash."""
        ((count,),) = connection.execute(STREAMED_SO_FAR).fetchall()
        connection.rollback()
        before, self._streamed = self._streamed, int(str(count))
        self.acts[STREAMED] += max(0, self._streamed - before)


def transact(seed: int, name: str, number: int, connection: Connection) -> tuple[bool, Acts]:
    """The statements of a session's nth transaction; whether it is to be committed, and what is in it."""
    acts: Acts = Counter()
    return TRANSACTIONS[name](connection, random.Random(f"{seed}/{name}/{number}"), acts), acts


def small(connection: Connection, chance: random.Random, acts: Acts) -> bool:
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
                changed = connection.execute(
                    "update items set id = -id where id = %s and not exists (select from items where id = -%s)",
                    [number, number],
                )
                acts[KEY_CHANGE] += changed.rowcount
            case 3:
                connection.execute("update items set big = repeat(md5(%s::text), 70) where id = %s", [value, number])
            case 4:
                connection.execute("insert into pairs values (%s, 'z', 1) on conflict do nothing", [number])
            case 5:
                changed = connection.execute(
                    "update pairs set b = b || 'k', v = v + 1 where a = %s and length(b) < 9", [number]
                )
                acts[KEY_CHANGE] += changed.rowcount
            case 6:
                connection.execute(
                    "insert into docs values (%s, jsonb_build_object('v', %s::int), array['x'], '\\x00ff')"
                    " on conflict (id) do update set body = excluded.body, raw = null",
                    [number, value],
                )
            case 7 if chance.random() < 0.02:
                connection.execute(sql.SQL("truncate {}").format(sql.Identifier(chance.choice(["pairs", "docs"]))))
                acts[TRUNCATE] += 1
            case 8:
                _change_added(connection, chance, value)
            case _:
                connection.execute("update items set n = n + 1 where id = %s", [number])
    return True


def large(connection: Connection, chance: random.Random, acts: Acts) -> bool:
    """Several steps in savepoints, some rolled back; False: the whole transaction is not wanted."""
    connection.execute("select")  # it begins here: else the first `transaction` is one of its own, no savepoint
    if chance.random() < SPOOLED_SHARE:
        _fill_spool(connection, chance, acts)
    for _ in range(chance.randint(2, 3)):
        with connection.transaction():
            neighbours(connection, chance.randint(BAND, BAND + 10 * STEP_ROWS), STEP_ROWS, chance.choice("iudk"))
            with connection.transaction():
                neighbours(connection, chance.randint(BAND, BAND + 10 * STEP_ROWS), STEP_ROWS, chance.choice("iudk"))
                if chance.random() < 0.4:
                    acts[SAVEPOINT] += 1
                    raise psycopg.Rollback
    return chance.random() < 0.8


def _fill_spool(connection: Connection, chance: random.Random, acts: Acts) -> None:
    rows = [SPOOLED_BAND, SPOOLED_BAND + SPOOLED_ROWS - 1]
    connection.execute("delete from items where id between %s and %s", rows)
    connection.execute(
        "insert into items select g, %s, 'spooled', repeat(md5(g::text), 70) from generate_series(%s::int, %s) g",
        [chance.randint(1, 1_000_000), *rows],
    )
    acts[SPOOLED] += 1


def shape(connection: Connection, chance: random.Random, acts: Acts) -> bool:
    """One change of shape, between changes of rows in the same transaction."""
    table = chance.choice(["items", "pairs", "docs"])
    added = _added_columns(connection, table)
    number = chance.randint(1, 1_000_000)
    small(connection, chance, acts)
    acts[SHAPE] += 1
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
    small(connection, chance, acts)
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


TRANSACTIONS: dict[str, Transaction] = {"small": small, "large": large, "shape": shape}
