"""The state directory of a head as tests see it, and certificates as an operator may have made them."""

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID

from shoal_cli.identity import layout
from shoal_cli.identity.layout import Identity, Layout
from shoal_cli.identity.make import prepare
from shoal_cli.identity.proof import objection
from shoal_identity import trust

NOW = datetime.now(UTC)
ADDRESS = "10.77.0.1"
PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


def made(files: Layout, address: str = ADDRESS) -> Identity:
    """Its identity, after one more start."""
    return prepare(files, address, "head1", NOW)


def contents(files: Layout) -> dict[str, bytes]:
    """Every file of the state directory by its name."""
    return {str(path.relative_to(files.state)): path.read_bytes() for path in files.state.rglob("*") if path.is_file()}


def certificate(path: Path) -> x509.Certificate:
    """The one in a file."""
    return x509.load_pem_x509_certificate(path.read_bytes())


def pem(key: PrivateKey) -> bytes:
    """A key as a file has it."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def signed(
    key: PrivateKey,
    issuer: tuple[str, PrivateKey],
    *,
    name: str = "own",
    authority: bool = True,
    begin: datetime = NOW - timedelta(days=100),
    end: datetime = NOW + timedelta(days=1000),
) -> bytes:
    """A certificate as an operator may have made it."""
    digest = None if isinstance(issuer[1], ed25519.Ed25519PrivateKey) else hashes.SHA256()
    addresses = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.IPv4Address(ADDRESS))])
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer[0])]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
    )
    made = (builder if authority else builder.add_extension(addresses, critical=False)).sign(issuer[1], digest)
    return made.public_bytes(serialization.Encoding.PEM)


def put(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Have a file hold this, in a directory that may be new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    path.chmod(mode)


def doors_open(files: Layout, address: str = ADDRESS) -> bool:
    """Whether clients that trust `ca.crt` come in at every door."""
    trusted = trust.parse(files.trust.read_bytes())
    pairs = [(files.certificate(pair), files.certificate_key(pair)) for pair in layout.PAIRS]
    return {objection(*pair, trusted, address) for pair in pairs} == {None}
