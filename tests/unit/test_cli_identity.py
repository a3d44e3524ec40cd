"""The identity of a head: made whole whatever happens meanwhile, and kept as it is."""

import os
import shutil
import stat
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from lab.head_keys import ADDRESS, NOW, certificate, contents, doors_open, made, pem, put, signed
from shoal_cli.identity import ca, layout
from shoal_cli.identity.layout import Layout
from shoal_cli.identity.make import prepare
from shoal_identity import trust
from shoal_identity.keys import Key
from shoal_model.subjects import Service


@pytest.fixture
def files(tmp_path: Path) -> Layout:
    return Layout(tmp_path)


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
