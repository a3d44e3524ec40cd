"""The identity of a head with what an operator gives it: an own CA, and what cannot be used."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from lab.head_keys import NOW, PrivateKey, contents, doors_open, made, pem, put, signed
from shoal_cli.identity import ca, layout
from shoal_cli.identity.layout import Layout
from shoal_cli.up.plan import CannotStart
from shoal_identity import trust
from shoal_identity.keys import Key


@pytest.fixture
def files(tmp_path: Path) -> Layout:
    return Layout(tmp_path)


# --- an own CA ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda: ec.generate_private_key(ec.SECP384R1()),
        lambda: rsa.generate_private_key(65537, 2048),
        ed25519.Ed25519PrivateKey.generate,
    ],
)
def test_an_operators_ca_is_used(files: Layout, make: Callable[[], PrivateKey]) -> None:
    key = make()
    own = signed(key, ("own", key))
    put(files.ca / "ca.pem", b"some words\n" + own.replace(b"\n", b"\r\n"), 0o644)
    put(files.ca / "ca.key", pem(key))
    made(files)
    assert doors_open(files)
    assert trust.parse(files.trust.read_bytes()).ca == own.decode()


def test_an_intermediate_ca_is_used_with_its_root(files: Layout) -> None:
    root, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    chain = [signed(key, ("root", root)), signed(root, ("root", root), name="root")]
    put(files.ca / "ca.key", pem(key))
    put(files.ca / "ca.pem", chain[0], 0o644)
    with pytest.raises(CannotStart, match="nobody would take what this CA signs: unable to get issuer"):
        made(files)
    put(files.ca / "ca.pem", b"".join(chain), 0o644)
    made(files)
    assert doors_open(files)


def test_with_the_cas_key_elsewhere_certificates_are_brought_by_hand(files: Layout) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    put(files.ca / "ca.pem", signed(key, ("own", key)), 0o644)
    with pytest.raises(CannotStart, match=r"server\.crt: nobody would take .*: it is missing, .* into .*ca/ca\.key"):
        made(files)
    door = ec.generate_private_key(ec.SECP256R1())
    by_hand = signed(door, ("own", key), name="door", authority=False, end=NOW + timedelta(days=3))
    for pair in layout.PAIRS:
        put(files.certificate_key(pair), pem(door))
        put(files.certificate(pair), by_hand, 0o644)
    made(files)
    assert {files.certificate(pair).read_bytes() for pair in layout.PAIRS} == {by_hand}
    with pytest.raises(CannotStart, match=r"at 10\.78\.0\.1: IP address mismatch"):
        made(files, "10.78.0.1")


def test_another_ca_issues_every_certificate_anew(files: Layout) -> None:
    made(files)
    certificate, key = ca.new_authority(NOW)
    put(files.ca / "ca.pem", certificate, 0o644)
    put(files.ca / "ca.key", key)
    made(files)
    assert doors_open(files)
    assert trust.parse(files.trust.read_bytes()).ca == certificate.decode()


# --- what cannot be used --------------------------------------------------------------------------------------------

KEY = ec.generate_private_key(ec.SECP256R1())
OTHER = ec.generate_private_key(ec.SECP256R1())


@pytest.mark.parametrize(
    ("name", "data", "complaint"),
    [
        ("keys/dhcp/bus.seed", b"", r"keys/dhcp/bus\.seed: .*Bring it back from a copy, or remove it"),
        ("keys/dhcp/bus.seed", b"S\xff", r"keys/dhcp/bus\.seed: this is no text"),
        ("keys/auth/issuer.seed", Key.new().seed.encode(), r"issuer\.seed is the key of another role \(U"),
        ("keys/ca/ca.key", b"", "keys/ca: this is no private key in PEM, or a damaged one"),
        ("keys/ca/ca.key", pem(OTHER), r"keys/ca: ca\.key is not the key of the first certificate in ca\.pem"),
        ("keys/ca/ca.pem", b"", r"keys/ca: ca\.pem holds no certificate that can be read"),
        ("keys/ca/ca.pem", signed(KEY, ("own", KEY), authority=False), "CN=own.* is not that of a CA"),
        ("keys/ca/ca.pem", signed(KEY, ("own", KEY), end=NOW - timedelta(days=1)), "CN=own.* expired at 20"),
        ("keys/mcastd/tls.key", b"x", r"mcastd/tls\.key: this is no private key .* Remove it: a new one is made"),
        ("ca.crt", b"x", r"ca\.crt: ca\.crt holds no certificate\. Bring it back from a copy, or remove it"),
    ],
)
def test_what_is_damaged_is_named_and_not_replaced(files: Layout, name: str, data: bytes, complaint: str) -> None:
    made(files)
    put(files.state / name, data)
    before = contents(files)
    with pytest.raises(CannotStart, match=complaint) as refused:
        made(files)
    assert contents(files) == before
    assert str(files.state) in str(refused.value)
    assert "SU" not in str(refused.value)


def test_a_key_with_a_passphrase_is_refused(files: Layout) -> None:
    made(files)
    encrypted = KEY.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"secret")
    )
    for name in ("ca/ca.key", "nats/server.key"):
        before = (files.keys / name).read_bytes()
        put(files.keys / name, encrypted)
        with pytest.raises(CannotStart, match="the key has a passphrase"):
            made(files)
        put(files.keys / name, before)


def test_a_damaged_certificate_is_issued_anew(files: Layout) -> None:
    made(files)
    put(files.certificate(layout.BUS_DOOR), b"x", 0o644)
    made(files)
    assert doors_open(files)


def test_keys_that_others_may_read_are_refused_with_what_to_run(files: Layout) -> None:
    made(files)
    exposed = [files.ca / "ca.key", files.bus_seed("operator")]
    for path in exposed:
        path.chmod(0o640)
    with pytest.raises(CannotStart) as refused:
        made(files)
    assert f"`chmod 600 {exposed[0]} {exposed[1]}`" in str(refused.value)
    for path in exposed:
        path.chmod(0o600)
    made(files)


@pytest.mark.parametrize(
    ("missing", "complaint"),
    [
        (("ca.pem",), r"ca\.key is there without its certificate"),
        (("ca.pem", "ca.key"), r"ca\.pem is gone, and nodes trust the CA in .*/ca\.crt"),
    ],
)
def test_a_lost_ca_is_not_made_anew_by_itself(files: Layout, missing: tuple[str, ...], complaint: str) -> None:
    made(files)
    for name in missing:
        (files.ca / name).unlink()
    before = contents(files)
    with pytest.raises(CannotStart, match=complaint):
        made(files)
    assert contents(files) == before


def test_a_directory_that_cannot_be_used_is_named(files: Layout) -> None:
    files.keys.write_text("no directory")
    with pytest.raises(CannotStart, match=rf"cannot keep this head's keys: .* \({files.keys}"):
        made(files)
