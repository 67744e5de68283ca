"""Which dead rows are meant, when people name some: by id, by table, or all of a pipeline."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any


def chosen(
    found: Sequence[dict[str, Any]], ids: Collection[str] | None = None, table: str | None = None
) -> tuple[list[dict[str, Any]], list[str]]:
    """Of the heads that a destination lists, those with these ids (None: any) and of this table (`schema.name`; None: any); and the
    ids that no head has."""
    unknown = sorted(set(ids or ()) - {row["id"] for row in found})
    meant = [row for row in found if (ids is None or row["id"] in ids) and table in (None, row["source_table"])]
    return meant, unknown
