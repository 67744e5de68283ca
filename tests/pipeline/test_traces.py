"""Traces: one follows a batch from the WAL until it is durable, an apply is linked to its batches, and a collector that is away disturbs nobody."""

from __future__ import annotations

import itertools

import httpx
import pytest

from etl_supervisor.embedded.ports import choose_port
from etl_supervisor.model import lsn
from tests.support.collector import INSTALLED, Seen, collecting
from tests.support.fix_deployment import Deployment, wait_for
from tests.support.sharing import two

pytestmark = pytest.mark.skipif(not INSTALLED, reason="the extra `otel` is not installed")

EVERY_BATCH = {"OTEL_TRACES_SAMPLER": "always_on", "OTEL_BSP_SCHEDULE_DELAY": "100"}
SECRET_TEXT = "a value that nobody may see"


def test_one_trace_follows_a_batch_from_decode_to_durable(deploy: Deployment) -> None:
    deploy.source.execute("create table notes (id int primary key, body text)")
    deploy.source.execute("create publication p for all tables")
    deploy.add("notes", publication_name="p")
    with collecting() as collector:
        deploy.start(OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint, **EVERY_BATCH)
        deploy.ready("notes")
        before = deploy.written("notes")
        deploy.source.execute("insert into notes select n, %s from generate_series(1, 50) n", SECRET_TEXT)
        deploy.caught_up("notes")

        def apply_of() -> Seen | None:
            durable = {(span.trace, span.id): span for span in collector.named("durable") if _first(span) >= before}
            return next((span for span in collector.named("apply") if set(span.links) & durable.keys()), None)

        apply = wait_for("the apply's span", apply_of)
        assert deploy.stop() == 0
        linked = next(span for span in collector.named("durable") if (span.trace, span.id) in apply.links)
        spans = {span.name: span for span in collector.spans if span.trace == linked.trace}
        assert set(spans) == {"decode", "share", "encode", "append", "durable"}
        decode, share = spans["decode"], spans["share"]
        assert decode.parent == b""
        assert share.parent == decode.id
        assert {spans[name].parent for name in ("encode", "append", "durable")} == {share.id}
        assert apply.parent == b""
        assert apply.trace != decode.trace

        way = ("decode", "share", "encode", "append", "durable")
        for earlier, later in itertools.pairwise(way):
            assert spans[earlier].ended <= spans[later].began + 1_000_000, (earlier, later)  # the clocks of two calls
        assert decode.began < decode.ended
        assert {span.resource["service.name"] for span in spans.values()} == {"etl-stream"}
        assert decode.resource["etl.process"] == "reader-notes"
        assert {spans[name].resource["etl.process"] for name in way[1:]} <= {"actor-0", "actor-1"}

        facts = {"etl.pipeline": "notes", "etl.table": "public.notes", "etl.rows": 50}
        for name in ("share", "encode", "append", "durable"):
            assert facts.items() <= spans[name].facts.items(), name
            assert spans[name].facts["etl.channel"]
        assert decode.facts["etl.source"] == "notes"
        assert decode.facts["etl.rows"] == 50
        assert decode.facts["etl.commits"] == 1
        assert decode.facts["etl.bytes"] > 50 * len(SECRET_TEXT)
        assert before <= _first(decode) == _first(share)
        assert lsn.parse(apply.facts["etl.lsn.fence"]) > _first(linked)
        assert not any(span.error for span in collector.spans)
        assert SECRET_TEXT.encode() not in collector.raw
    deploy.same("notes", notes=("id",))


def _value(deploy: Deployment, series: str) -> float:
    """What the monitor tells of a series; 0 before it has begun."""
    page = httpx.get(f"http://{deploy.settings.metrics_addr}/metrics", timeout=30).text
    found = [line for line in page.splitlines() if line.startswith(series)]
    return float(found[0].split()[1]) if found else 0.0


def _first(span: Seen) -> int:
    return lsn.parse(span.facts["etl.lsn.first"])


def test_a_collector_that_is_away_costs_spans_and_nothing_else(deploy: Deployment) -> None:
    deploy.source.execute("create table notes (id int primary key)")
    deploy.source.execute("create publication p for all tables")
    deploy.add("notes", publication_name="p")
    nobody = f"http://127.0.0.1:{choose_port()}"
    deploy.start(
        OTEL_EXPORTER_OTLP_ENDPOINT=nobody,
        OTEL_EXPORTER_OTLP_TIMEOUT="1",
        OTEL_BSP_MAX_QUEUE_SIZE="4",
        OTEL_BSP_MAX_EXPORT_BATCH_SIZE="4",
        **EVERY_BATCH,
    )
    deploy.ready("notes")
    for number in range(20):
        deploy.source.execute("insert into notes values (%s)", number)
    deploy.caught_up("notes")
    deploy.same("notes", notes=("id",))

    wait_for("the spans to be counted", lambda: _value(deploy, 'etl_trace_spans_total{result="dropped"}') > 4)
    assert deploy.stop() == 0
    said = deploy.events("traces_not_delivered")
    assert {line["process"] for line in said} <= {"reader-notes", "actor-0", "actor-1"}
    assert 1 <= len(said) <= 3  # once for each process, not for each try
    assert "Traceback" not in deploy.log


def test_a_batch_whose_actor_dies_is_followed_on_by_the_next_one(deploy: Deployment) -> None:
    deploy.source.execute("create table notes (id int primary key)")
    deploy.source.execute("create publication p for all tables")
    deploy.add("notes", publication_name="p")
    with collecting() as collector:
        deploy.start(
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint, ETL_FAILPOINTS="actor.after_append=kill", **EVERY_BATCH
        )
        deploy.ready("notes")
        before = deploy.written("notes")
        for number in range(10):
            deploy.source.execute("insert into notes values (%s)", number)
        deploy.caught_up("notes")

        def followed() -> bool:
            batches = {
                span.trace: span.facts["etl.rows"] for span in collector.named("decode") if _first(span) >= before
            }
            durable = {span.trace for span in collector.named("durable")}
            return sum(batches.values()) == 10 and batches.keys() <= durable

        wait_for("every batch to be durable", followed)
        assert deploy.stop() == 0
    assert "actor.after_append" in (deploy.folder / "failpoints.log").read_text()
    deploy.same("notes", notes=("id",))


def test_rows_that_travel_as_files_tell_their_upload(deploy: Deployment) -> None:
    deploy.source.execute("create table notes (id int primary key)")
    deploy.source.execute("create publication p for all tables")
    deploy.add("notes", publication_name="p", load_path="copy", file_max_age_seconds=0.1)
    with collecting() as collector:
        deploy.start(OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint, **EVERY_BATCH)
        deploy.ready("notes")
        deploy.source.execute("insert into notes select generate_series(1, 20)")
        deploy.caught_up("notes")
        upload = wait_for("the span of the upload", lambda: collector.named("upload"))[-1]
        durable = wait_for(
            "the rows to be durable",
            lambda: [span for span in collector.named("durable") if span.trace == upload.trace],
        )[0]
        assert deploy.stop() == 0
        spans = {span.name: span for span in collector.spans if span.trace == upload.trace}
    assert set(spans) == {"decode", "share", "encode", "append", "upload", "durable"}
    assert upload.parent == durable.parent == spans["share"].id
    assert spans["append"].ended <= upload.began
    assert upload.ended <= durable.began
    assert upload.facts["etl.rows"] == 20


def test_a_joint_apply_is_linked_to_the_batches_of_each_of_its_tables(deploy: Deployment) -> None:
    deploy.source.execute("create table debit (id int primary key); create table credit (id int primary key)")
    deploy.source.execute("create publication p for all tables")
    deploy.add("bank", publication_name="p", consistency="transaction")
    with collecting() as collector:
        deploy.start(OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint, **EVERY_BATCH)
        deploy.ready("bank", 2)
        deploy.source.execute("begin; insert into debit values (1); insert into credit values (1); commit")
        deploy.caught_up("bank")

        def applied() -> dict[str, Seen]:
            return {span.facts["etl.table"]: span for span in collector.named("apply")}

        wait_for("both tables' spans", lambda: applied().keys() == {"public.debit", "public.credit"})
        wait_for("the metric", lambda: _value(deploy, 'etl_applied_seconds_count{pipeline="bank"}') >= 2)
        assert deploy.stop() == 0
        durable = {(span.trace, span.id): span.facts["etl.table"] for span in collector.named("durable")}
        for table, apply in applied().items():
            assert {durable[link] for link in apply.links} == {table}
            assert 0 < apply.ended - apply.began < 60e9
        assert len({link[0] for apply in applied().values() for link in apply.links}) == 1  # one batch, one trace
    deploy.same("bank", debit=("id",), credit=("id",))


def test_a_batch_for_two_pipelines_is_one_trace_with_a_share_for_each(deploy: Deployment) -> None:
    with collecting() as collector:
        two(deploy, OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint, **EVERY_BATCH)
        before = deploy.written("shop")
        deploy.source.execute("insert into items values (1001, 1, 'one')")

        def durable() -> dict[str, Seen]:
            return {span.facts["etl.pipeline"]: span for span in collector.named("durable") if _first(span) >= before}

        wait_for("both to be durable", lambda: durable().keys() == {"shop", "other"})
        assert deploy.stop() == 0
        (decode,) = [span for span in collector.named("decode") if _first(span) >= before]
        shares = {span.facts["etl.pipeline"]: span for span in collector.named("share") if span.trace == decode.trace}
        assert shares.keys() == {"shop", "other"}
        for name, share in shares.items():
            assert share.parent == decode.id
            assert (durable()[name].trace, durable()[name].parent) == (decode.trace, share.id)
