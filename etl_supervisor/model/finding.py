"""What `doctor` finds: facts an operator may want to act on, as data for the terminal and for programs."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Weight(StrEnum):
    """How much it matters."""

    WRONG = "wrong"  # something does not work, or will not
    RISK = "risk"  # something may be lost or may stop
    ADVICE = "advice"  # it works; it could work better


@dataclass(frozen=True, slots=True)
class Finding:
    """One fact: `kind` names the check, `place` the object. Never a secret or the value of a cell."""

    weight: Weight
    kind: str
    place: str
    reason: str
    remedy: str = ""

    @property
    def line(self) -> str:
        """For a terminal."""
        text = f"{self.weight} {self.kind} at {self.place}: {self.reason}"
        return f"{text} ({self.remedy})" if self.remedy else text
