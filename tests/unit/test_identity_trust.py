"""What a node trusts: a file that is exactly the one that was meant, or none."""

import datetime
import hashlib
import ssl

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from shoal_identity import trust
from shoal_identity.keys import Key
from shoal_identity.trust import BadTrust, Trust, parse


def certificate(name: str) -> tuple[str, str]:
    """A CA's certificate and its key, in PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    made = (
        x509.CertificateBuilder(subject, subject, key.public_key(), 7, now, now + datetime.timedelta(days=9000))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    plain = serialization.NoEncryption()
    pkcs8 = serialization.PrivateFormat.PKCS8
    private = key.private_bytes(serialization.Encoding.PEM, pkcs8, plain)
    return made.public_bytes(serialization.Encoding.PEM).decode(), private.decode()


CA, PRIVATE = certificate("one")
SECOND, _ = certificate("two")
KEYS = (Key.new().public, Key.new().public)


@pytest.mark.parametrize("made", [Trust(CA), Trust(CA, KEYS), Trust(CA + SECOND, KEYS[:1])])
def test_what_is_written_is_read(made: Trust) -> None:
    assert parse(made.dump()) == made
    assert parse(made.dump(), hashlib.sha256(made.dump()).hexdigest()) == made


def test_pem_readers_take_it_as_it_is() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=Trust(CA + SECOND, KEYS).dump().decode())
    assert context.cert_store_stats()["x509_ca"] == 2


def test_only_the_file_that_was_meant_will_do() -> None:
    data = Trust(CA, KEYS).dump()
    for other in (data + b"\n", data[:-1], data.replace(KEYS[0].encode(), KEYS[1].encode()), b""):
        with pytest.raises(BadTrust, match=r"shoal\.ca="):
            parse(other, hashlib.sha256(data).hexdigest())


BAD = {
    "nothing": (b"", "holds no certificate"),
    "keys alone": (f"image-key {KEYS[0]}\n".encode(), "holds no certificate"),
    "no text": (b"\xff\xfe", "is no text"),
    "too large": (b" " * (trust.LONGEST + 1), "larger than 1048576 bytes"),
    "a damaged certificate": (CA.replace(CA[100:110], "A" * 10).encode(), "cannot be read"),
    "a seed for a key": (f"image-key {Key.new().seed}\n{CA}".encode(), "an image key that is none"),
    "half a key": (f"image-key {KEYS[0][:-1]}\n{CA}".encode(), "an image key that is none"),
    "one good key, one bad": (f"image-key {KEYS[0]}\nimage-key x\n{CA}".encode(), "an image key that is none"),
}


@pytest.mark.parametrize(("data", "told"), BAD.values(), ids=BAD)
def test_what_is_no_trust_is_told(data: bytes, told: str) -> None:
    with pytest.raises(BadTrust, match=told):
        parse(data)


def test_what_else_stands_in_the_file_is_left_out() -> None:
    """A private key that somebody put there by mistake does not travel on."""
    read = parse(f"# ours\n{PRIVATE}image-key {KEYS[0]}\n  image-key {KEYS[1]}\nand more\n{CA}".encode())
    assert read == Trust(CA, KEYS[:1])
    assert b"PRIVATE" not in read.dump()


@given(st.binary(max_size=3000) | st.text().map(lambda text: f"{CA}{text}".encode()))
def test_rubbish_is_refused_or_left_out(data: bytes) -> None:
    try:
        read = parse(data)
    except BadTrust:
        return
    assert read.ca == CA


def test_a_client_checks_certificate_and_address() -> None:
    context = Trust(CA).client_context()
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
    assert context.cert_store_stats() == {"x509": 1, "crl": 0, "x509_ca": 1}
