"""Secrets at rest: what opens them, what does not, and that nothing of them is ever shown."""

import base64

import pytest

from etl_supervisor.config.secrets import Keyring, is_encrypted
from etl_supervisor.errors import EtlError
from etl_supervisor.model.pipeline import EncryptedText

OLD, NEW = "o" * 32, "n" * 32
PLACE = "sources/shop/pg_password"


def refused(keyring: Keyring, secret: EncryptedText) -> str:
    with pytest.raises(EtlError) as caught:
        keyring.decrypt(secret)
    return caught.value.line


@pytest.mark.parametrize("text", ["geheim", "", "ü😀 with: colons", "x" * 10_000])
def test_what_was_encrypted_opens_at_its_place(text: str) -> None:
    keyring = Keyring(NEW)
    secret = keyring.encrypt(text, PLACE)
    assert keyring.decrypt(secret) == text
    assert is_encrypted(secret.ciphertext)


def test_the_same_secret_never_looks_the_same_twice() -> None:
    keyring = Keyring(NEW)
    assert keyring.encrypt("geheim", PLACE).ciphertext != keyring.encrypt("geheim", PLACE).ciphertext


def test_a_ciphertext_that_was_moved_does_not_open() -> None:
    keyring = Keyring(NEW)
    moved = EncryptedText(keyring.encrypt("geheim", PLACE).ciphertext, "sources/other/pg_password")
    assert refused(keyring, moved) == (
        "config at sources/other/pg_password: the stored secret does not open with SECRET_KEY (restore the SECRET_KEY it was"
        " written under (or set it as SECRET_KEY_PREVIOUS), or store the secret again)"
    )


@pytest.mark.parametrize("stored", ["geheim", "v1:00000000:AAAA", "v1:geheim", "v1:::", "v1:0:\u00fc"])
def test_what_is_no_ciphertext_of_ours_is_refused_without_being_repeated(stored: str) -> None:
    assert stored not in refused(Keyring(NEW), EncryptedText(stored, PLACE))


def test_a_changed_bit_does_not_open() -> None:
    keyring = Keyring(NEW)
    version, key_id, encoded = keyring.encrypt("geheim", PLACE).ciphertext.split(":")
    data = bytearray(base64.b64decode(encoded))
    data[-1] ^= 1
    refused(keyring, EncryptedText(f"{version}:{key_id}:{base64.b64encode(data).decode()}", PLACE))


def test_the_old_key_opens_what_it_wrote_and_the_new_one_writes() -> None:
    before = Keyring(OLD).encrypt("geheim", PLACE)
    changed = Keyring(NEW, OLD)
    assert changed.decrypt(before) == "geheim"
    after = changed.encrypt("geheim", PLACE)
    assert Keyring(NEW).decrypt(after) == "geheim"
    refused(Keyring(NEW), before)


def test_a_keyring_knows_what_its_first_key_wrote() -> None:
    changed = Keyring(NEW, OLD)
    assert changed.is_current(changed.encrypt("geheim", PLACE).ciphertext)
    assert not changed.is_current(Keyring(OLD).encrypt("geheim", PLACE).ciphertext)
    assert not changed.is_current("geheim")


@pytest.mark.parametrize("clear", ["geheim", "v1:", "v1:a:b", "v1:with:colons", ""])
def test_a_clear_secret_that_looks_like_a_ciphertext_is_still_a_clear_one(clear: str) -> None:
    assert not is_encrypted(clear)


def test_a_ciphertext_does_not_show_in_its_repr() -> None:
    secret = Keyring(NEW).encrypt("geheim", PLACE)
    assert repr(secret) == f"EncryptedText(context='{PLACE}')"
