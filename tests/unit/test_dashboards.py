"""Dashboards and alert rules ask for what there is."""

from __future__ import annotations

import re
import runpy
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
import yaml

from etl_supervisor.monitor.catalog import MetricDoc, catalog

SCRIPTS = Path(__file__).parents[2] / "scripts"
DASHBOARD = SCRIPTS / "grafana" / "etl-stream.json"
RULES = SCRIPTS / "prometheus" / "etl-stream.rules.yml"
SERIES = {name: item for item in catalog() for name in item.series}


def asked() -> Iterator[tuple[str, str, str]]:
    """Where, expression, and text with the labels that it shows."""
    for panel in orjson.loads(DASHBOARD.read_bytes())["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"], target["legendFormat"]
    for rule in yaml.safe_load(RULES.read_text())["groups"][0]["rules"]:
        yield rule["alert"], rule["expr"], " ".join(rule["annotations"].values())


def metrics_in(expression: str) -> list[MetricDoc]:
    return [SERIES[name] for name in re.findall(r"\betl_\w+", expression)]


@pytest.mark.parametrize(("where", "expression", "shown"), list(asked()), ids=lambda value: value[:40])
def test_names_and_labels_are_the_programs(where: str, expression: str, shown: str) -> None:
    found = metrics_in(expression)
    assert found, where
    known = {label for item in found for label in item.labels} | {"le"}
    grouped = re.findall(r"by \(([^)]*)\)", expression)
    wanted = {label.strip() for group in grouped for label in group.split(",")}
    wanted |= set(re.findall(r'[{,](\w+)=~?"', expression))
    shown_labels = set(re.findall(r"\{\{\s*(?:\$labels\.)?(\w+)\s*\}\}", shown))
    assert wanted <= known, where
    assert shown_labels <= known, where
    if grouped:
        assert shown_labels <= {label.strip() for label in grouped[0].split(",")}, where


@pytest.mark.parametrize("item", catalog(), ids=lambda item: item.name)
def test_a_counter_is_asked_for_its_rate_and_a_gauge_for_its_value(item: MetricDoc) -> None:
    for where, expression, _ in asked():
        for name in item.series:
            for match in re.finditer(rf"\b{name}\b(?:\{{[^}}]*\}})?(\[)?", expression):
                over_time = match[1] is not None
                assert over_time == (item.kind != "gauge" or "delta(" in expression), where


def test_the_dashboard_is_what_its_script_writes() -> None:
    written = runpy.run_path(str(SCRIPTS / "write_dashboard.py"))["page"]()
    assert DASHBOARD.read_text() == written, "run `make docs`"


def test_the_rules_have_names_of_their_own_and_say_how_bad_it_is() -> None:
    rules = yaml.safe_load(RULES.read_text())["groups"][0]["rules"]
    assert len({rule["alert"] for rule in rules}) == len(rules)
    assert {rule["labels"]["severity"] for rule in rules} == {"warning", "critical"}
