"""What `doctor` finds: facts an operator may want to act on, as data for the terminal and for programs."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class Weight(StrEnum):
    """How much it matters."""

    WRONG = "wrong"  # something does not work, or will not
    RISK = "risk"  # something may be lost or may stop
    ADVICE = "advice"  # it works; it could work better


class Fault(Protocol):
    """What an `EtlError` says (this package knows nothing of errors)."""

    @property
    def kind(self) -> str: ...
    @property
    def place(self) -> str: ...
    @property
    def reason(self) -> str: ...
    @property
    def remedy(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Finding:
    """One fact: `kind` names the check, `place` the object. Never a secret or the value of a cell."""

    weight: Weight
    kind: str
    place: str
    reason: str
    remedy: str = ""

    @classmethod
    def of(cls, error: Fault) -> Finding:
        """What an error says, as a finding."""
        return cls(Weight.WRONG, str(error.kind), error.place, error.reason, error.remedy)

    @property
    def line(self) -> str:
        """For a terminal."""
        text = f"{self.weight} {self.kind} at {self.place}: {self.reason}"
        return f"{text} ({self.remedy})" if self.remedy else text
