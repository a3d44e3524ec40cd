"""The identity of a head: made whole whatever happens meanwhile, kept as it is, refused where it cannot be used."""

import ipaddress
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from shoal_cli.identity import ca, layout
from shoal_cli.identity.layout import Identity, Layout
from shoal_cli.identity.make import prepare
from shoal_cli.identity.proof import objection
from shoal_cli.up.plan import CannotStart
from shoal_identity import trust
from shoal_identity.keys import Key
from shoal_model.subjects import Service

NOW = datetime.now(UTC)
ADDRESS = "10.77.0.1"
PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


@pytest.fixture
def files(tmp_path: Path) -> Layout:
    return Layout(tmp_path)


def made(files: Layout, address: str = ADDRESS) -> Identity:
    return prepare(files, address, "head1", NOW)


def contents(files: Layout) -> dict[str, bytes]:
    """Every file of the state directory by its name."""
    return {str(path.relative_to(files.state)): path.read_bytes() for path in files.state.rglob("*") if path.is_file()}


def certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def pem(key: PrivateKey) -> bytes:
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
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    path.chmod(mode)


def doors_open(files: Layout, address: str = ADDRESS) -> bool:
    """Whether clients that trust `ca.crt` come in at every door."""
    trusted = trust.parse(files.trust.read_bytes())
    pairs = [(files.certificate(pair), files.certificate_key(pair)) for pair in layout.PAIRS]
    return {objection(*pair, trusted, address) for pair in pairs} == {None}


# --- what is made ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("umask", [0, 0o077])
def test_the_first_start_makes_everything_with_its_modes(files: Layout, umask: int) -> None:
    before = os.umask(umask)
    try:
        made(files)
    finally:
        os.umask(before)
    modes = {str(path.relative_to(files.state)): stat.S_IMODE(path.stat().st_mode) for path in files.state.rglob("*")}
    principals = ("registry", "auth", "fleet", "dhcp", "tftp", "image-builder", "mcastd", "execd-config", "operator")
    assert modes == {
        "ca.crt": 0o644,
        "keys": 0o711,
        **{f"keys/{owner}": 0o700 for owner in (*principals, "nats", "ca")},
        **{f"keys/{principal}/bus.seed": 0o600 for principal in principals},
        **{f"keys/auth/{name}.seed": 0o600 for name in ("callout", "system", "issuer")},
        "keys/tftp/boot.seed": 0o600,
        "keys/image-builder/image.seed": 0o600,
        **{f"keys/{name}.key": 0o600 for name in ("ca/ca", "nats/server", "mcastd/tls", "execd-config/tls")},
        **{f"keys/{name}.crt": 0o644 for name in ("nats/server", "mcastd/tls", "execd-config/tls")},
        "keys/ca/ca.pem": 0o644,
    }


def test_what_may_be_known_is_public(files: Layout) -> None:
    identity = made(files)
    assert identity.public[layout.ISSUER].startswith("A")
    assert len(set(identity.public.values())) == len(layout.SEEDS)
    for seed in layout.SEEDS:
        key = Key.read(files.seed(seed))
        assert identity.public[seed] == key.public
        assert key.seed not in repr(identity)
        assert not [name for name, data in contents(files).items() if key.seed.encode() in data][1:]


def test_the_ca_signs_certificates_of_doors_and_nothing_else(files: Layout) -> None:
    made(files)
    own = certificate(files.ca / "ca.pem")
    constraints = own.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (constraints.critical, constraints.value.ca, constraints.value.path_length) == (True, True, 0)
    assert isinstance(own.public_key(), ec.EllipticCurvePublicKey)
    assert own.not_valid_before_utc < datetime(2000, 1, 1, tzinfo=UTC)
    assert timedelta(days=20 * 365) < own.not_valid_after_utc - NOW < timedelta(days=20 * 366)


def test_the_doors_are_proven_to_whoever_trusts_the_file(files: Layout) -> None:
    identity = made(files)
    assert doors_open(files)
    assert doors_open(files, "127.0.0.1")
    assert doors_open(files, "head1")
    assert not doors_open(files, "10.77.0.2")
    assert trust.parse(files.trust.read_bytes()).image_keys == (identity.public[layout.IMAGE],)
    usage = certificate(files.certificate(layout.BUS_DOOR)).extensions.get_extension_for_class(x509.ExtendedKeyUsage)
    assert list(usage.value) == [ExtendedKeyUsageOID.SERVER_AUTH]


@pytest.mark.parametrize("host", ["", "höhe", "a_b", "x" * 64])
def test_any_host_name_will_do(files: Layout, host: str) -> None:
    prepare(files, ADDRESS, host, NOW)
    assert doors_open(files)


# --- what is there stays --------------------------------------------------------------------------------------------


def test_a_second_start_changes_nothing(files: Layout) -> None:
    first, before = made(files), contents(files)
    times = {path: path.stat().st_mtime_ns for path in files.state.rglob("*")}
    assert made(files) == first
    assert contents(files) == before
    assert {path: path.stat().st_mtime_ns for path in files.state.rglob("*")} == times


def test_another_address_changes_the_certificates_alone(files: Layout) -> None:
    made(files)
    before = contents(files)
    made(files, "10.78.0.1")
    changed = {name for name, data in contents(files).items() if before[name] != data}
    assert changed == {"keys/nats/server.crt", "keys/mcastd/tls.crt", "keys/execd-config/tls.crt"}
    assert doors_open(files, "10.78.0.1")


def test_what_is_missing_is_made_and_the_rest_stays(files: Layout) -> None:
    made(files)
    before = contents(files)
    missing = [files.bus_seed(Service.DHCP), files.certificate(layout.BUS_DOOR), files.trust]
    for path in missing:
        path.unlink()
    made(files)
    changed = {files.state / name for name, data in contents(files).items() if before[name] != data}
    assert changed == set(missing) - {files.trust}
    assert doors_open(files)


def test_image_keys_of_others_stay(files: Layout) -> None:
    identity, other = made(files), Key.new().public
    edited = files.trust.read_text().replace("-----BEGIN", f"# the other head\nimage-key {other}\n-----BEGIN", 1)
    files.trust.write_text(edited)
    made(files)
    assert files.trust.read_text() == edited
    files.seed(layout.IMAGE).unlink()
    renewed = made(files)
    former = identity.public[layout.IMAGE]
    assert trust.parse(files.trust.read_bytes()).image_keys == (renewed.public[layout.IMAGE], former, other)


def test_directories_are_closed_to_others(files: Layout) -> None:
    files.ca.mkdir(parents=True)
    made(files)
    for owner in ("operator", "ca"):
        (files.keys / owner).chmod(0o755)
    made(files)
    assert {stat.S_IMODE((files.keys / owner).stat().st_mode) for owner in ("operator", "ca")} == {0o700}
    assert stat.S_IMODE(files.keys.stat().st_mode) == 0o711


@pytest.mark.parametrize(("left", "renewed"), [(timedelta(days=32), False), (timedelta(days=28), True)])
def test_a_certificate_is_issued_anew_when_a_third_of_its_life_is_left(
    files: Layout, left: timedelta, renewed: bool
) -> None:
    made(files)
    authority = ca.authority((files.ca / "ca.pem").read_bytes(), (files.ca / "ca.key").read_bytes(), NOW)
    key = ec.generate_private_key(ec.SECP256R1())
    name = authority.certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value
    begin, end = NOW + left - timedelta(days=90), NOW + left
    own = signed(key, (str(name), authority.key), authority=False, begin=begin, end=end)
    path = files.certificate(layout.BUS_DOOR)
    put(files.certificate_key(layout.BUS_DOOR), pem(key))
    put(path, own, 0o644)
    made(files)
    assert (path.read_bytes() != own) is renewed
    assert doors_open(files)


# --- a power cut ----------------------------------------------------------------------------------------------------


class PowerCut(BaseException):
    """Nothing catches it."""


@pytest.fixture
def cut(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """Let the power fail at the n-th step that changes names or syncs from now on; -1: never."""
    left = -1

    def failing(call: Callable[..., object] | None) -> Callable[..., object]:
        def step(*arguments: object, **options: object) -> object:
            nonlocal left
            if left == 0:
                raise PowerCut
            left -= 1
            return call(*arguments, **options) if call is not None else None

        return step

    def after(steps: int) -> None:
        nonlocal left
        left = steps

    for name, call in (("mkdir", os.mkdir), ("replace", os.replace), ("rename", os.rename), ("fsync", None)):
        monkeypatch.setattr(os, name, failing(call))
    yield after
    left = -1


def test_a_start_that_is_cut_short_leaves_nothing_half_and_the_next_one_completes_it(
    files: Layout, cut: Callable[[int], None]
) -> None:
    steps = 0
    while True:
        shutil.rmtree(files.state)
        files.state.mkdir()
        cut(steps)
        try:
            made(files)
            break
        except PowerCut:
            left = {name: data for name, data in contents(files).items() if "/." not in f"/{name}"}
        cut(-1)
        made(files)
        now = contents(files)
        assert {
            name for name, data in left.items() if now[name] != data and not name.startswith("keys/.ca.new")
        } == set()
        assert [name for name in now if Path(name).name.startswith(".") or ".ca.new" in name] == []
        assert doors_open(files)
        steps += 1
    assert steps > 3 * len(layout.SEEDS)


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
