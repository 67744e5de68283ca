"""What is taken for an e-mail address can be sent to, whatever it looks like."""

import io
import random
from email.generator import BytesGenerator
from email.message import EmailMessage

import pytest

from etl_supervisor.config.addresses import are_addresses

CHARACTERS = "ab@.,<>()[]\" ;:\\'=?_%-"


@pytest.mark.parametrize(
    "text", ["a@b", "ops@example.com, d@e.f", "Ops <ops@example.com>", '"Doe, J" <j@x.y>', "etl-stream@localhost"]
)
def test_addresses_are_taken(text: str) -> None:
    assert are_addresses(text)


@pytest.mark.parametrize(
    "text",
    ["", " ", "nobody", "@", "a@", "@b", "a@b c@d", "a b@c", "<a@b>>", "ä@b", "a@b\r\nBcc: c@d", "a@b\n", "a@b\0"],
)
def test_everything_else_is_refused(text: str) -> None:
    assert not are_addresses(text)


def test_what_is_taken_can_be_written_into_a_mail() -> None:
    luck, taken = random.Random(1), 0
    for _ in range(20_000):
        text = "".join(luck.choice(CHARACTERS) for _ in range(luck.randint(1, 14)))
        if not are_addresses(text):
            continue
        taken += 1
        mail, written = EmailMessage(), io.BytesIO()
        mail["From"], mail["To"] = "a@b", text
        mail.set_content("x")
        BytesGenerator(written, policy=mail.policy.clone(utf8=False)).flatten(mail, linesep="\r\n")
        assert written.getvalue().count(b"\r\nTo: ") == 1
    assert taken > 10
