"""The commands of `etl-supervisor`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from etl_supervisor.config.coredumps import forbid_core_dumps
from etl_supervisor.config.settings import Settings, load
from etl_supervisor.errors import EtlError
from etl_supervisor.exits import Exit, code_of

app = typer.Typer(
    help="ETL Stream: PostgreSQL changes into Snowflake. Settings come from the environment and .env (docs/configuration.md).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
dead_letter = typer.Typer(help="Rows that Snowflake did not take (docs/operations.md).", no_args_is_help=True)
app.add_typer(dead_letter, name="dead-letter")
api_key = typer.Typer(help="Who may use the REST API (docs/api.md).", no_args_is_help=True)
app.add_typer(api_key, name="api-key")
console = Console()
Ids = Annotated[list[str] | None, typer.Option("--id", help="Id of a row, as `list` shows it; may be repeated")]
OfTable = Annotated[str | None, typer.Option("--table", help="Rows of this table, schema.name")]


@app.command()
def run() -> None:
    """Run the supervisor. Without DATABASE_URL it brings PostgreSQL, Valkey and a local Snowflake of its own, and a demo shop."""
    settings = load()
    if settings.embedded:
        from etl_supervisor.cli.run import run_embedded

        raise typer.Exit(run_embedded(settings))
    from etl_supervisor.cli.start import supervise  # the parent stays light: no database driver, nothing embedded

    raise typer.Exit(supervise(settings, reread=load))


@app.command()
def migrate(
    which: Annotated[Literal["app", "etl", "all"], typer.Argument(help="Schema app, schema etl, or both")] = "all",
    revert: Annotated[
        int | None, typer.Option(min=1, help="Take so many steps of one schema back, with their data")
    ] = None,
    show: Annotated[bool, typer.Option("--show", help="Only show the steps; + has been run")] = False,
) -> None:
    """Bring the config database (app) and the state tables (etl) to their newest version."""
    from etl_supervisor.cli import migrations

    if revert is not None and (which == "all" or show):
        raise typer.BadParameter("give app or etl with --revert, and no --show")
    if show:
        migrations.show(_configured(), which, console)
    elif revert is not None and which != "all":
        migrations.back(_configured(), which, revert, console)
    else:
        migrations.forward(_configured(), which, console)


@app.command("rotate-secrets")
def rotate_secrets() -> None:
    """Encrypt every stored secret under SECRET_KEY; SECRET_KEY_PREVIOUS opens the older ones. Exit 1 when one does not open (docs/security.md)."""
    from etl_supervisor.cli.secrets import run as rotate

    if not rotate(_configured(), console):
        raise typer.Exit(Exit.FAILED)


@app.command()
def status(
    watch: Annotated[
        bool, typer.Option("--watch", help="Keep showing it, with a bar for each first copy (Ctrl-C ends)")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object, for programs")] = False,
) -> None:
    """Show pipelines, tables, their states, lag, and how far first copies are."""
    from etl_supervisor.cli import status as showing

    if as_json:
        print(showing.as_json(_configured()))  # noqa: T201 - for a program: not a character may be added
    elif watch:
        showing.watch(_configured(), console)
    else:
        showing.show(_configured(), console)


@app.command()
def doctor(as_json: Annotated[bool, typer.Option("--json", help="A JSON array, for programs")] = False) -> None:
    """Look at sources, tables, slots, rights, destinations and the state store, and say what to act on. Exit 0 when nothing is wrong."""
    from etl_supervisor.cli.doctor import show

    if not show(_configured(), console, as_json=as_json):
        raise typer.Exit(Exit.FAILED)


@app.command()
def resync(
    pipeline: Annotated[str, typer.Argument(help="Name")],
    table: Annotated[str | None, typer.Argument(help="schema.table; every table when not given")] = None,
) -> None:
    """Copy a table, or all of a pipeline, again while the rest streams; the target is replaced in one step."""
    from etl_supervisor.cli.resync import request

    request(_configured(), pipeline, table, console)


@app.command()
def retry(
    pipeline: Annotated[str, typer.Argument(help="Name")],
    table: Annotated[
        str | None, typer.Argument(help="schema.table that is in trouble; every one when not given")
    ] = None,
) -> None:
    """Try tables that are held or wait once more, now: the pipeline's stream begins again at its confirmed position."""
    from etl_supervisor.cli.retry import request

    request(_configured(), pipeline, table, console)


@app.command()
def verify(
    pipeline: Annotated[str, typer.Argument(help="Name")],
    table: Annotated[str | None, typer.Option(help="schema.table; every table when not given")] = None,
    repair: Annotated[bool, typer.Option("--repair", help="Copy the ranges that differ again, or the table")] = False,
    continuous: Annotated[bool, typer.Option("--continuous", help="Again and again (Ctrl-C ends)")] = False,
    interval: Annotated[float, typer.Option(min=1, help="Seconds between two beginnings, with --continuous")] = 3600,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object per table, for programs")] = False,
) -> None:
    """Compare source and target row by row at one LSN, while the pipeline runs. Exit 0 when all is equal, 1 otherwise (docs/verify.md)."""
    from etl_supervisor.cli import verify as verifying

    wish = verifying.Wish(pipeline, table, repair, as_json)
    if continuous:
        verifying.run_forever(_configured(), wish, console, interval)
    elif not verifying.run(_configured(), wish, console):
        raise typer.Exit(Exit.FAILED)


@app.command()
def sql(
    query: Annotated[str, typer.Argument(help="One SQL statement")],
    destination: Annotated[
        str | None, typer.Option(help="Name of the destination; the first one when not given")
    ] = None,
) -> None:
    """Query the configured Snowflake."""
    from etl_supervisor.cli.query import query as run_query

    titles, rows = run_query(_configured(), query, destination)
    table = Table(*titles)
    for row in rows:
        table.add_row(*("NULL" if value is None else str(value) for value in row))
    console.print(table)


@app.command()
def api(address: Annotated[str | None, typer.Option(help="host:port; API_ADDR when not given")] = None) -> None:
    """Serve the REST API alone, in the foreground (`run` serves it when API_ADDR is set)."""
    from etl_supervisor.cli.api import run as serve

    serve(_configured(), address)


@api_key.command("create")
def api_key_create(
    name: Annotated[str, typer.Argument(help="Whose it is, for the audit log")],
    role: Annotated[Literal["viewer", "operator", "admin"], typer.Option(help="What it may do")] = "viewer",
    tenant: Annotated[str | None, typer.Option(help="It sees this tenant alone; everything when not given")] = None,
    days: Annotated[int | None, typer.Option(min=1, max=3650, help="It ends after so many days")] = None,
) -> None:
    """Make a key and print it: it is shown this once."""
    from etl_supervisor.api.caller import Role
    from etl_supervisor.cli.api import create

    print(create(_configured(), name, Role(role), tenant, days))  # noqa: T201 - for `KEY=$(...)`


@api_key.command("list")
def api_key_list() -> None:
    """Show the keys, without what they are."""
    from etl_supervisor.cli.api import show as show_keys

    show_keys(_configured(), console)


@api_key.command("revoke")
def api_key_revoke(prefix: Annotated[str, typer.Argument(help="The eight characters behind etl_")]) -> None:
    """End a key from now on."""
    from etl_supervisor.cli.api import revoke

    revoke(_configured(), prefix)


@dead_letter.command("list")
def dead_letter_list(
    pipeline: Annotated[str | None, typer.Option(help="Of this pipeline only")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="A JSON object per line, with everything but the payload")
    ] = False,
) -> None:
    """Show the rows with their reasons."""
    from etl_supervisor.cli.dead_letter import show

    show(_configured(), pipeline, console, as_json=as_json)


@dead_letter.command("replay")
def dead_letter_replay(
    pipeline: Annotated[str, typer.Argument(help="Name")], ids: Ids = None, table: OfTable = None
) -> None:
    """Bring rows to their place in the change log and the target: all of a pipeline, those of --id, or of --table. Exit 0 when every one is there."""
    from etl_supervisor.cli.dead_letter import replay

    if not replay(_configured(), pipeline, console, ids, table):
        raise typer.Exit(Exit.FAILED)


@dead_letter.command("drop")
def dead_letter_drop(
    pipeline: Annotated[str, typer.Argument(help="Name")],
    ids: Ids = None,
    table: OfTable = None,
    everything: Annotated[bool, typer.Option("--all", help="All rows of the pipeline")] = False,
) -> None:
    """Forget rows: those of --id, of --table, or --all."""
    from etl_supervisor.cli.dead_letter import drop

    if bool(ids or table) == everything:
        raise typer.BadParameter("give --id, --table or --all")
    drop(_configured(), pipeline, console, ids, table)


@app.command()
def demo(
    changes: Annotated[int, typer.Option(help="Row changes to stream")] = 20_000,
    rows: Annotated[int, typer.Option(help="Rows to copy first")] = 100_000,
    commit_delay: Annotated[
        float, typer.Option(help="Seconds until the local Snowflake commits what was appended")
    ] = 0.0,
) -> None:
    """Copy, stream, kill an actor and the reader, add a source live; then compare every row. Exit 0 if nothing differs."""
    from etl_supervisor.cli.demo import demo as run_demo

    raise typer.Exit(run_demo(changes=changes, rows=rows, commit_delay_s=commit_delay))


@app.command("local-snowflake")
def local_snowflake(
    data: Annotated[Path, typer.Option(help="Where databases and certificates are kept")] = Path(".local/snowflake"),
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1")] = 18443,
    commit_delay: Annotated[float, typer.Option(help="Seconds until appended rows are committed")] = 0.0,
    counting: Annotated[bool, typer.Option("--counting", help="Check and count appended rows, store none")] = False,
) -> None:
    """Serve a local Snowflake in the foreground: SQL for the connector, Snowpipe Streaming for the SDK."""
    from etl_supervisor.embedded.snowflake.certificates import certificates_in
    from etl_supervisor.embedded.snowflake.foreground import alone, run

    with alone(data):
        ca_file = certificates_in(data / "tls").bundle.resolve()
        console.print(
            f"local Snowflake on https://127.0.0.1:{port}, data in {data}; a destination needs", soft_wrap=True
        )
        console.print(
            f'  snowflake_host = 127.0.0.1:{port}, settings = {{"ca_file": "{ca_file}"}}, any private key',
            soft_wrap=True,
        )
        run(data, port, commit_delay, counting=counting)


def _configured() -> Settings:
    """The settings; those of the embedded parts when nothing else is configured and they have been started here."""
    settings = load()
    if not settings.embedded:
        return settings
    from etl_supervisor.cli.running import embedded_environment

    return load(settings.directory, {**os.environ, **embedded_environment(settings)})


def main() -> None:
    """Entry point: an EtlError is one line and an exit code."""
    forbid_core_dumps()
    try:
        app()
    except EtlError as error:
        print(f"etl-supervisor: {error.line}", file=sys.stderr)  # noqa: T201 - the program's error line
        sys.exit(code_of(error.kind))
    except KeyboardInterrupt:
        sys.exit(Exit.FAILED)


if __name__ == "__main__":
    main()
