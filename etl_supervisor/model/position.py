"""The position of a change: the one total order of a source, and the offset token that spells it.

    position = (generation, commit_lsn, lsn, ordinal)

* `generation`  which history the LSNs belong to; a new one begins when they can't be compared with the old ones
                (slot re-created, another system_identifier, a re-sync). It is the Unix second in which it began.
* `commit_lsn`  where the transaction's commit record starts (Begin's final_lsn). Rows of a copy at consistent point S
                carry S-1: in some slots the first streamed transaction's commit_lsn equals S.
* `lsn`         the change's own WAL position (the frame's dataStart); for a copy the number of the range.
* `ordinal`     2 x the number of row frames with the same dataStart seen before in the transaction (a COPY's rows share one
                WAL record); +1 for the insert half of a key change, whose delete half has the even number. For a copy: the row's number.

Nothing here depends on how batches were cut, what was filtered, or whether a transaction was streamed.

The token is fixed-width hexadecimal, so that the order of texts is the order of positions:

    0123ABCD-0000000016B37400-0000000016B37348-00000000      (53 characters)
"""

from __future__ import annotations

from typing import NamedTuple

TOKEN_LENGTH = 8 + 1 + 16 + 1 + 16 + 1 + 8


class Position(NamedTuple):
    """A place in the history of one source; tuples compare as positions do."""

    generation: int
    commit_lsn: int
    lsn: int
    ordinal: int

    @property
    def token(self) -> str:
        """The offset token of this position."""
        return f"{self.generation:08X}-{self.commit_lsn:016X}-{self.lsn:016X}-{self.ordinal:08X}"

    @property
    def place(self) -> str:
        """The WAL record as text, whatever the generation; text order is stream order."""
        return f"{self.commit_lsn:016X}-{self.lsn:016X}"

    @property
    def before(self) -> str:
        """A token before this position and after every change of an earlier WAL record."""
        return Position(self.generation, self.commit_lsn, self.lsn - 1, 0).token

    @classmethod
    def parse(cls, token: str) -> Position:
        """A token -> its position. Raises ValueError for text that is not a token of ours."""
        parts = token.split("-")
        if len(token) != TOKEN_LENGTH or [len(part) for part in parts] != [8, 16, 16, 8]:
            raise ValueError("not an offset token")
        return cls(*(int(part, 16) for part in parts))
