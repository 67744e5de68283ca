"""Labels of metrics are bounded."""

import pytest

from etl_supervisor.model.table import TableName
from etl_supervisor.monitor import metrics


def test_tables_beyond_the_limit_share_a_label(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_tables", set())
    monkeypatch.setattr(metrics, "TABLE_LABELS_MAX", 2)
    names = [TableName("public", name) for name in ("a", "b", "c", "a")]
    assert [metrics.table_label(name) for name in names] == ["public.a", "public.b", "(others)", "public.a"]
