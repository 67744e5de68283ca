"""Whether a row goes to the dead letter without being tried: with its values, or with its key alone."""

from __future__ import annotations

from enum import Enum


class Bury(Enum):
    """See above."""

    NO = "no"
    WHOLE = "whole"
    BARE = "bare"
