"""How long rows were under way, from a histogram: how many took at most so long (cumulative, as Prometheus counts)."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping

Histogram = Mapping[str, float]  # upper bound in seconds ("+Inf" is one) -> how many took at most that


def together(histograms: Iterable[Histogram]) -> dict[str, float]:
    """All of them as one. Those of other bounds (of another version) are left out."""
    given = [found for found in histograms if found]
    summed: dict[str, float] = defaultdict(float)
    for found in given:
        if found.keys() == given[0].keys():
            for bound, reached in found.items():
                summed[bound] += reached
    return dict(summed)


def count(histogram: Histogram) -> int:
    """How many there are."""
    return int(max(histogram.values(), default=0))


def percentile(histogram: Histogram, part: float) -> float | None:
    """Seconds within which this part (0 to 1) arrived, taken to lie evenly between two bounds; None when there are none.

    Beyond the last bound it is that bound: it took at least so long.
    """
    bounds = sorted((float(bound), reached) for bound, reached in histogram.items())
    if not bounds or bounds[-1][1] <= 0:
        return None
    rank, lower, before = part * bounds[-1][1], 0.0, 0.0
    for bound, reached in bounds:
        if reached >= rank and reached > before:
            return lower if math.isinf(bound) else lower + (bound - lower) * (rank - before) / (reached - before)
        lower, before = (lower if math.isinf(bound) else bound), reached
    return lower
