"""Signed manifests: whose signature counts, and for what."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal_identity.keys import Key
from shoal_identity.signatures import Unsigned, check, sign

KEY, OTHER = Key.new(), Key.new()
BODY = b"manifest"
SIGNATURE = sign(BODY, KEY)


def test_a_signature_of_a_trusted_key_counts() -> None:
    check(BODY, KEY.public, SIGNATURE, [OTHER.public, KEY.public])


CASES = {
    "no signature": (BODY, KEY.public, b"", "is not signed: build the image again"),
    "no key": (BODY, "", SIGNATURE, "is not signed"),
    "a key that nobody trusts": (
        BODY,
        OTHER.public,
        sign(BODY, OTHER),
        f"signed with {OTHER.public[:12]}…, which",
    ),
    "another body": (BODY + b"x", KEY.public, SIGNATURE, "forged or damaged"),
    "cut short": (BODY, KEY.public, SIGNATURE[:-1], "forged or damaged"),
    "rubbish": (BODY, KEY.public, b"x" * 64, "forged or damaged"),
    "for another purpose": (BODY, KEY.public, KEY.sign(BODY), "forged or damaged"),
    "of a token": (BODY, KEY.public, KEY.sign(b"shoal boot token\0" + BODY), "forged or damaged"),
}


@pytest.mark.parametrize(("body", "key", "signature", "told"), CASES.values(), ids=CASES)
def test_no_other_signature_does(body: bytes, key: str, signature: bytes, told: str) -> None:
    with pytest.raises(Unsigned, match=told):
        check(body, key, signature, {KEY.public})


def test_where_nobody_is_trusted_nothing_is_signed() -> None:
    with pytest.raises(Unsigned):
        check(BODY, KEY.public, SIGNATURE, [])


@given(st.binary(), st.text(), st.binary(max_size=100))
def test_rubbish_is_unsigned(body: bytes, key: str, signature: bytes) -> None:
    with pytest.raises(Unsigned):
        check(body, key, signature, [KEY.public, key])
