"""JWTs signed by nkeys: what is read is what was written by whom it should be, or BadJwt."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal_auth import jwt
from shoal_auth.jwt import BadJwt
from shoal_identity.keys import Key, Role

SERVER = Key.new(Role.SERVER)
CLAIMS = {"sub": "x", "nats": {"version": 2}}


def part(data: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(data).encode()).decode().rstrip("=")


def signed(body: str) -> bytes:
    return f"{body}.{base64.urlsafe_b64encode(SERVER.sign(body.encode())).decode().rstrip('=')}".encode()


def test_what_is_written_is_read() -> None:
    text = jwt.encode(CLAIMS, SERVER, 1_700_000_000)
    assert jwt.decode(text.encode(), "N") == {**CLAIMS, "iss": SERVER.public, "iat": 1_700_000_000}
    header = json.loads(base64.urlsafe_b64decode(text.partition(".")[0] + "=="))
    assert header == {"typ": "JWT", "alg": "ed25519-nkey"}


@pytest.mark.parametrize("role", [Role.USER, Role.ACCOUNT])
def test_another_kind_of_issuer_does_not_count(role: Role) -> None:
    with pytest.raises(BadJwt, match="key of kind N"):
        jwt.decode(jwt.encode(CLAIMS, Key.new(role), 0).encode(), "N")


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"a.b",
        b"..",
        b"\xff.\xff.\xff",
        signed(f"{part({'alg': 'none'})}.{part({'iss': SERVER.public})}"),
        signed(f"{part({'alg': 'ed25519-nkey'})}.{part([])}"),
        signed(f"{part([])}.{part({'iss': SERVER.public})}"),
        signed(f"{part({'alg': 'ed25519-nkey'})}.{part({'iss': 7})}"),
        signed(f"{part({'alg': 'ed25519-nkey'})}.{part({'iss': Key.new(Role.SERVER).public})}"),
        signed(f"{part({'alg': 'ed25519-nkey'})}.{part({'iss': 'N'})}"),
        signed(f"{part({'alg': 'ed25519-nkey'})}.{base64.urlsafe_b64encode(b'[' * 40_000).decode()}"),
        signed(f"{part({'alg': 'ed25519-nkey'})}.{part({'iss': SERVER.public, 'much': 'x' * 70_000})}"),
    ],
)
def test_what_is_none_is_none(text: bytes) -> None:
    with pytest.raises(BadJwt):
        jwt.decode(text, "N")


@given(st.integers(0, 400), st.integers(1, 255))
def test_nothing_of_it_can_be_changed(position: int, change: int) -> None:
    text = bytearray(jwt.encode(CLAIMS, SERVER, 1_700_000_000).encode())
    text[position % len(text)] ^= change
    try:
        claims = jwt.decode(bytes(text), "N")
    except BadJwt:
        return
    # base64 has spare bits at the end of a part, and nothing else that could differ
    assert claims == {**CLAIMS, "iss": SERVER.public, "iat": 1_700_000_000}
