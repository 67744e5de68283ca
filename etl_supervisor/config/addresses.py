"""E-mail addresses as a header of a mail has them."""

from __future__ import annotations

from email.message import EmailMessage


def are_addresses(text: str) -> bool:
    """Whether these are addresses, by comma, perhaps with names: `Ops <ops@example.com>, me@localhost`. Addresses that need SMTPUTF8 are none."""
    if not (text.isascii() and text.isprintable()):  # a line's end would begin another header
        return False
    message = EmailMessage()
    try:
        message["To"] = text
        found, defects = message["To"].addresses, message["To"].defects
    except Exception:  # the standard library's parser stumbles over some texts, each time in another way
        return False
    return bool(found) and not defects and all(one.username and one.domain for one in found)
