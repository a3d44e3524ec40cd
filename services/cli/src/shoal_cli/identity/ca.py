"""X.509: the CA of a cluster, and the certificates of the doors that nodes and operators come to."""

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey
Chain = tuple[x509.Certificate, ...]
"""The certificate of a CA, followed by those above it up to the root, if there are any."""

LIFE = timedelta(days=20 * 365.25)
_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
"""Certificates are valid from here on: where a clock without a battery begins."""


class BadCa(ValueError):
    """These cannot be the certificate and the key of a CA; the text says why."""


@dataclass(frozen=True)
class Authority:
    """A CA that can sign."""

    chain: Chain
    key: PrivateKey

    @property
    def certificate(self) -> x509.Certificate:
        """The certificate whose key signs."""
        return self.chain[0]


def new_key() -> bytes:
    """A key for a certificate, PEM: ECDSA over P-256."""
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def new_authority(now: datetime) -> tuple[bytes, bytes]:
    """A CA for the next 20 years that signs certificates of doors alone: its certificate and its key, PEM."""
    secret = new_key()
    key = _private(secret)
    serial = x509.random_serial_number()
    name = _name(f"Shoal cluster {serial:x}"[:30])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(_BEGINNING)
        .not_valid_after(now + LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, _digest(key))
    )
    return pem(certificate).encode(), secret


def authority(certificates: bytes, key: bytes, now: datetime) -> Authority:
    """The CA in these PEM files. Raises BadCa where they are none, do not fit each other, or are too old."""
    chain = read_chain(certificates, now)
    private = _private(key)
    if private.public_key() != chain[0].public_key():
        raise BadCa("ca.key is not the key of the first certificate in ca.pem")
    return Authority(chain, private)


def read_chain(certificates: bytes, now: datetime) -> Chain:
    """The certificates of a CA, the one that signs first. Raises BadCa."""
    try:
        chain = tuple(x509.load_pem_x509_certificates(certificates))
        constraints = [_constraints(certificate) for certificate in chain]
    except ValueError as error:
        raise BadCa(f"ca.pem holds no certificate that can be read: {error}") from None
    for certificate, constraint in zip(chain, constraints, strict=True):
        name = certificate.subject.rfc4514_string()
        if constraint is None or not constraint.ca:
            raise BadCa(f"the certificate {name!r} in ca.pem is not that of a CA (basicConstraints CA:true)")
        if certificate.not_valid_after_utc <= now:
            raise BadCa(f"the certificate {name!r} in ca.pem expired at {certificate.not_valid_after_utc:%Y-%m-%d}")
    return chain


def issue(issuer: Authority, key: bytes, address: str, host: str) -> bytes:
    """A server's certificate, PEM, for a key: valid at this IPv4 address, on the machine itself and by its host name,
    as long as the CA is. Raises BadCa if that key is none.
    """
    public = _private(key).public_key()
    alternatives = [
        x509.IPAddress(ipaddress.IPv4Address(address)),
        x509.IPAddress(ipaddress.IPv4Address("127.0.0.1")),
        *([x509.DNSName(host)] if host.isascii() and host else []),
    ]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(_name("Shoal head"))
        .issuer_name(issuer.certificate.subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(issuer.certificate.not_valid_before_utc)
        .not_valid_after(issuer.certificate.not_valid_after_utc)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(_issuer_identifier(issuer), critical=False)
        .sign(issuer.key, _digest(issuer.key))
    )
    return pem(certificate).encode()


def ends_soon(certificate: bytes, issuer: Authority, now: datetime) -> bool:
    """Whether less than a third of its life is left, and a new one would live longer."""
    try:
        leaf = x509.load_pem_x509_certificate(certificate)
    except ValueError:
        return True
    begin, end = leaf.not_valid_before_utc, leaf.not_valid_after_utc
    return end - now < (end - begin) / 3 and end < issuer.certificate.not_valid_after_utc


def pem(certificate: x509.Certificate) -> str:
    """A certificate as text."""
    return certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")


def _private(text: bytes) -> PrivateKey:
    try:
        key = serialization.load_pem_private_key(text, None)
    except TypeError:
        raise BadCa("the key has a passphrase: a head starts without anybody to ask for it") from None
    except (ValueError, UnsupportedAlgorithm):
        raise BadCa("this is no private key in PEM, or a damaged one") from None
    if not isinstance(key, PrivateKey):
        raise BadCa("this kind of key signs no certificates")
    return key


def _constraints(certificate: x509.Certificate) -> x509.BasicConstraints | None:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound:
        return None


def _issuer_identifier(issuer: Authority) -> x509.AuthorityKeyIdentifier:
    try:
        subject = issuer.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key())
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(subject)


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _digest(key: PrivateKey) -> hashes.SHA256 | None:
    return None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])
