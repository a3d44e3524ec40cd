"""Boot tokens: what is minted is read; what is cut, changed or forged is not."""

import base64
import dataclasses
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal_identity import tokens
from shoal_identity.keys import Key
from shoal_identity.tokens import BadToken, BootToken, claimed, mint, read

KEY, OTHER = Key.new(), Key.new()
TOKEN = BootToken("n001", "52:54:00:77:00:11", "10.77.0.11", "0123456789abcdef", 1_795_166_093)
TEXT = mint(TOKEN, KEY)

TOKENS = st.builds(
    BootToken,
    node=st.from_regex(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", fullmatch=True),
    mac=st.sampled_from([6, 8, 20])
    .flatmap(lambda size: st.binary(min_size=size, max_size=size))
    .map(lambda b: b.hex(":")),
    address=st.ip_addresses(v=4).map(str),
    boot=st.binary(min_size=8, max_size=8).map(bytes.hex),
    not_after=st.integers(0, 2**64 - 1),
)


@given(TOKENS)
def test_what_is_minted_is_read(token: BootToken) -> None:
    text = mint(token, KEY)
    assert set(text) <= set(string.ascii_letters + string.digits + "-_")
    assert len(text) <= 300  # of the 2,047 bytes of a kernel command line
    assert read(text, [OTHER.public, KEY.public]) == token
    assert claimed(text) == token


@given(TOKENS)
def test_who_is_not_trusted_mints_nothing(token: BootToken) -> None:
    with pytest.raises(BadToken, match="not signed by a boot file server of this cluster"):
        read(mint(token, OTHER), [KEY.public])
    with pytest.raises(BadToken, match="not signed by a boot file server of this cluster"):
        read(mint(token, KEY), [])


@given(st.integers(0, len(TEXT) - 1))
def test_a_token_that_was_cut_is_none(length: int) -> None:
    with pytest.raises(BadToken):
        read(TEXT[:length], [KEY.public])


@given(st.data())
def test_no_bit_of_a_token_may_change(data: st.DataObject) -> None:
    raw = bytearray(_raw(TEXT))
    bit = data.draw(st.integers(0, len(raw) * 8 - 1))
    raw[bit // 8] ^= 1 << bit % 8
    with pytest.raises(BadToken):
        read(_text(bytes(raw)), [KEY.public, OTHER.public])


def test_nobody_can_put_his_key_into_anothers_token() -> None:
    """As the key stands in the token, it must be looked for among those we trust, and not be taken from there."""
    forged = mint(TOKEN, OTHER)
    body, signature = _raw(forged)[:-64], _raw(forged)[-64:]
    with pytest.raises(BadToken, match="signature is wrong"):
        read(_text(_raw(TEXT)[:-64] + signature), [KEY.public])
    with pytest.raises(BadToken, match="not signed by"):
        read(_text(body + _raw(TEXT)[-64:]), [KEY.public])


def test_a_signature_for_another_purpose_makes_no_token() -> None:
    body = _raw(TEXT)[:-64]
    for data in (body, b"shoal image manifest\0" + body):
        with pytest.raises(BadToken, match="signature is wrong"):
            read(_text(body + KEY.sign(data)), [KEY.public])


def test_a_token_of_another_release_says_so() -> None:
    body = b"\x02" + _raw(TEXT)[1:-64]
    text = _text(body + KEY.sign(b"shoal boot token\0" + body))
    with pytest.raises(BadToken, match="has version 2; this release reads 1"):
        read(text, [KEY.public])
    assert claimed(text) is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "too short"),
        ("A" * 100, "too short"),
        ("A" * 401, "too long"),
        ("A" * 1_000_000, "too long"),
        (f"{TEXT} ", "not base64"),
        (f"{TEXT[:-1]}!", "not base64"),
        (f"{TEXT[:10]}\n{TEXT[10:]}", "not base64"),
        ("ä" * 200, "not base64"),
        (TEXT + "AAAA", "contradict each other|signature is wrong"),
    ],
)
def test_what_is_no_token_is_told(text: str, told: str) -> None:
    with pytest.raises(BadToken, match=told):
        read(text, [KEY.public])


@given(st.text(max_size=450) | st.text(alphabet=string.ascii_letters + string.digits + "-_=", max_size=450))
def test_rubbish_is_no_token(text: str) -> None:
    with pytest.raises(BadToken):
        read(text, [KEY.public])
    assert claimed(text) is None or isinstance(claimed(text), BootToken)


@given(st.binary(max_size=300))
def test_whatever_the_bytes_say_is_a_claim_or_nothing(raw: bytes) -> None:
    told = claimed(_text(b"\x01" + raw))
    assert told is None or mint(told, KEY)


def test_a_claim_is_what_the_token_says_whoever_signed_it() -> None:
    assert claimed(mint(TOKEN, OTHER)) == TOKEN
    assert claimed(_text(_raw(TEXT)[:-64] + bytes(64))) == TOKEN


def test_its_time_is_for_the_caller_to_check() -> None:
    assert read(mint(dataclasses.replace(TOKEN, not_after=0), KEY), [KEY.public]).not_after == 0
    assert tokens.LIFETIME >= 1800


def _raw(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")
