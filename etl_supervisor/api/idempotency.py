"""A create that may be sent twice: with the header `Idempotency-Key` the second one gets the first one's answer.

    same key, same body        the answer of the first; nothing is made
    same key, another body     422
    the first is still busy    the second waits for it (the key's row is locked by the first one's transaction)

The key's row, what is made and the answer are one transaction: after a crash there is all of it or nothing, and the client just sends it again.
Keys belong to one caller and one route, and are forgotten after a day.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
from psycopg.types.json import Jsonb

from etl_supervisor.api.faults import Fault
from etl_supervisor.api.rows import Desk

KEY_LENGTH_MAX = 255


def once(desk: Desk, route: str, key: str, sent: bytes, make: Callable[[], Any]) -> tuple[Any, bool]:
    """What `make` gives (something that JSON can hold), and whether it was made before. `sent` is the body."""
    connection, place = desk.connection, [desk.caller.name, route, key]
    fingerprint = desk.keyring.fingerprint(sent)
    connection.execute("DELETE FROM app.idempotency_keys WHERE created_at < now() - interval '1 day'")
    fresh = connection.execute(
        "INSERT INTO app.idempotency_keys (who, route, key, fingerprint) VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING RETURNING key",
        [*place, fingerprint],
    ).fetchone()
    if fresh is None:
        known = connection.execute(
            "SELECT fingerprint, answer FROM app.idempotency_keys WHERE who = %s AND route = %s AND key = %s", place
        ).fetchone()
        assert known is not None
        if known["fingerprint"] != fingerprint:
            message = "Idempotency-Key: it was used with another body"
            raise Fault(422, "IdempotencyKeyError", message, idempotency_key=key)
        return known["answer"], True
    made = make()
    connection.execute(
        "UPDATE app.idempotency_keys SET answer = %s WHERE who = %s AND route = %s AND key = %s",
        [Jsonb(made, orjson.dumps), *place],
    )
    return made, False
