"""Paths below a root, and customizations unpacked there: nothing gets out, what is kept is kept."""

import contextlib
import io
import os
import stat
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal_execd.archives import ArchiveError, unpack
from shoal_execd.places import PlaceError, inside, write_file


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "usr/lib").mkdir(parents=True)
    (root / "lib").symlink_to("usr/lib")
    (root / "absolute").symlink_to("/usr/lib")
    (root / "escape").symlink_to("../../..")
    (root / "loop").symlink_to("loop")
    return root


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/etc/hostname", "etc/hostname"),
        ("lib/shoal/init.d", "usr/lib/shoal/init.d"),
        ("/absolute/x", "usr/lib/x"),
        ("/escape/etc/passwd", "etc/passwd"),
        ("/../../etc", "etc"),
        ("/lib", "lib"),
    ],
)
def test_paths_lead_where_they_would_for_a_process_in_the_root(root: Path, path: str, expected: str) -> None:
    assert inside(root, path) == root / expected


def test_the_last_link_is_followed_on_demand(root: Path) -> None:
    assert inside(root, "/lib", follow=True) == root / "usr/lib"


def test_a_circle_of_links_is_named(root: Path) -> None:
    with pytest.raises(PlaceError, match="loop"):
        inside(root, "/loop/x")


@given(st.text(alphabet="ab./", max_size=40))
def test_nothing_leads_out(text: str) -> None:
    root = Path("/nowhere/root")
    place = inside(root, text)
    assert place == root or root in place.parents


def test_a_file_is_replaced_whole_with_mode_and_owner(root: Path) -> None:
    (root / "etc").mkdir()
    (root / "etc/x").symlink_to("/etc/target")
    write_file(root, "/etc/x", b"new", 0o640, (os.getuid(), os.getgid()))
    assert (root / "etc/x").read_bytes() == b"new"
    assert not (root / "etc/x").is_symlink()
    assert stat.S_IMODE((root / "etc/x").stat().st_mode) == 0o640
    assert os.listdir(root / "etc") == ["x"]


def test_a_failed_write_leaves_no_trace(root: Path) -> None:
    (root / "etc/x").mkdir(parents=True)
    with pytest.raises(OSError, match="x"):
        write_file(root, "/etc/x", b"new", 0o644, (os.getuid(), os.getgid()))
    assert os.listdir(root / "etc") == ["x"]


def member(
    name: str, kind: bytes = tarfile.REGTYPE, *, mode: int = 0o644, link: str = "", size: int = 0
) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.linkname, info.size = kind, mode, link, size
    info.uid, info.gid, info.mtime = os.getuid(), os.getgid(), 1_000_000_000
    return info


def tar(*members: tarfile.TarInfo, content: bytes = b"") -> io.BytesIO:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for each in members:
            archive.addfile(each, io.BytesIO(content) if each.size else None)
    buffer.seek(0)
    return buffer


def test_a_customization_goes_over_the_root_through_its_links(root: Path) -> None:
    archive = tar(
        member(".", tarfile.DIRTYPE, mode=0o700),
        member("lib", tarfile.DIRTYPE, mode=0o755),
        member("lib/shoal/init.d", tarfile.DIRTYPE, mode=0o750),
        member("lib/shoal/init.d/10-first", mode=0o4755, size=3),
        member("etc/link", tarfile.SYMTYPE, link="../lib/shoal"),
        member("etc/hard", tarfile.LNKTYPE, link="lib/shoal/init.d/10-first"),
        content=b"#!x",
    )
    before = stat.S_IMODE(root.stat().st_mode)
    assert unpack(archive, root, "site") == 6
    script = root / "usr/lib/shoal/init.d/10-first"
    assert script.read_bytes() == b"#!x"
    assert stat.S_IMODE(script.stat().st_mode) == 0o4755
    assert script.stat().st_mtime == 1_000_000_000
    assert stat.S_IMODE(script.parent.stat().st_mode) == 0o750
    assert (root / "lib").is_symlink()
    assert os.readlink(root / "etc/link") == "../lib/shoal"
    assert (root / "etc/hard").stat().st_ino == script.stat().st_ino
    assert stat.S_IMODE(root.stat().st_mode) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give capabilities away")
def test_file_capabilities_are_kept(root: Path) -> None:
    capability = bytes.fromhex("0100000200200000000000000000000000000000")  # cap_net_raw=ep
    value = b"SCHILY.xattr.security.capability=" + capability + b"\n"
    content = f"{len(value) + 3} ".encode() + value
    header = member("./PaxHeaders/ping", tarfile.XHDTYPE, size=len(content))
    buffer = io.BytesIO()
    for info, data in ((header, content), (member("usr/ping", mode=0o755, size=1), b"x")):
        buffer.write(info.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % 512))
    buffer.write(bytes(1024))
    buffer.seek(0)
    unpack(buffer, root, "site")
    assert os.getxattr(root / "usr/ping", "security.capability") == capability


@pytest.mark.parametrize(
    "bad",
    [
        member("/etc/passwd"),
        member("../outside"),
        member("etc/../../outside"),
        member("dev/sda", tarfile.BLKTYPE),
        member("dev/null", tarfile.CHRTYPE),
        member("run/pipe", tarfile.FIFOTYPE),
        member("etc/x", tarfile.LNKTYPE, link="../../etc/shadow"),
        member("etc/x", tarfile.LNKTYPE, link="/etc/shadow"),
    ],
    ids=lambda bad: f"{bad.name}-{bad.type!r}",
)
def test_a_customization_that_leads_out_is_refused_before_anything_is_written(root: Path, bad: tarfile.TarInfo) -> None:
    with pytest.raises(ArchiveError, match="customization site"):
        unpack(tar(member("etc/good"), bad), root, "site")
    assert not (root / "etc").exists()


def test_a_link_in_a_customization_does_not_lead_out(root: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    archive = tar(
        member("out", tarfile.SYMTYPE, link=str(victim)),
        member("out/file", size=1),
        member("out/sub", tarfile.DIRTYPE),
        content=b"x",
    )
    unpack(archive, root, "site")
    assert os.listdir(victim) == []
    assert (root / str(victim).lstrip("/") / "file").read_bytes() == b"x"


@pytest.mark.parametrize("damage", [b"", b"not a tar archive" * 100])
def test_what_is_no_archive_is_named(root: Path, damage: bytes) -> None:
    with pytest.raises(ArchiveError, match="site"):
        unpack(io.BytesIO(damage), root, "site")


def test_a_cut_archive_is_refused_before_anything_is_written(root: Path) -> None:
    whole = tar(member("etc/a", size=5000), member("etc/b", size=5000), content=b"x" * 5000).getvalue()
    with pytest.raises(ArchiveError, match="site"):
        unpack(io.BytesIO(whole[:7000]), root, "site")
    assert not (root / "etc").exists()


def test_a_size_below_zero_leads_nowhere(root: Path) -> None:
    """Newer releases of Python 3.11 read on, and it is refused; older ones take it for the end of the archive."""
    bad = member("etc/bad")
    bad.pax_headers = {"size": "-512"}
    with contextlib.suppress(ArchiveError):
        unpack(tar(member("etc/good"), bad), root, "site")
    assert not (root / "etc/bad").exists()


@pytest.mark.parametrize("header", [{"mtime": "inf"}, {"mtime": "nan"}, {"uid": "-1"}, {"gid": "9" * 20}])
def test_numbers_that_are_none_are_refused_before_anything_is_written(root: Path, header: dict[str, str]) -> None:
    bad = member("etc/bad")
    bad.pax_headers = header
    with pytest.raises(ArchiveError, match="customization site is no intact tar archive"):
        unpack(tar(member("etc/good"), bad), root, "site")
    assert not (root / "etc").exists()
