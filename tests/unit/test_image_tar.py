"""The tar writer: what it writes is read back the same by itself, by the standard library and by GNU tar."""

import io
import subprocess
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal_image_builder.layers.entry import Entry, LayerError, Type, canonical, manifest_bytes, parse_manifest
from shoal_image_builder.layers.tar import TarWriter, read_tar

_NAMES = st.text(
    st.characters(blacklist_categories=("Cs", "Cc"), blacklist_characters="/"), min_size=1, max_size=60
).filter(lambda name: name not in (".", ".."))
_PATHS = st.lists(_NAMES, min_size=1, max_size=4).map("/".join).filter(lambda path: path == path.strip("/"))
_COMMON = {
    "path": _PATHS,
    "uid": st.integers(0, 2**32 - 1),
    "gid": st.integers(0, 2**32 - 1),
    "mtime": st.integers(0, 2**33 - 1),
    "xattrs": st.dictionaries(
        st.sampled_from(["security.capability", "user.a"]), st.binary(min_size=1, max_size=40)
    ).map(lambda found: tuple(sorted(found.items()))),
}
_ENTRIES = st.one_of(
    st.builds(Entry, type=st.just(Type.DIRECTORY), mode=st.integers(0, 0o7777), **_COMMON),
    st.builds(Entry, type=st.just(Type.SYMLINK), mode=st.just(0o777), target=_PATHS, **_COMMON),
    st.builds(Entry, type=st.just(Type.FILE), mode=st.integers(0, 0o7777), **_COMMON),
)


def _written(members: list[tuple[Entry, bytes]]) -> bytes:
    out = io.BytesIO()
    writer = TarWriter(out)
    for entry, content in members:
        writer.add(entry, io.BytesIO(content) if entry.type is Type.FILE else None)
    writer.close()
    return out.getvalue()


@given(st.lists(st.tuples(_ENTRIES, st.binary(max_size=1500)), max_size=5))
def test_what_is_written_is_read_back(members: list[tuple[Entry, bytes]]) -> None:
    members = [
        (replace(entry, size=len(content)), content) if entry.type is Type.FILE else (entry, b"")
        for entry, content in members
    ]
    read = [(entry, content.read() if content else b"") for entry, content in read_tar(io.BytesIO(_written(members)))]
    assert read == members


@given(st.lists(_ENTRIES, max_size=5))
def test_a_manifest_is_read_back(entries: list[Entry]) -> None:
    assert parse_manifest(manifest_bytes(entries)) == entries


def test_gnu_tar_reads_every_field(tmp_path: Path) -> None:
    long = "/".join(["directory-with-a-long-name"] * 6) + "/ünïcode"
    archive = tmp_path / "a.tar"
    archive.write_bytes(
        _written(
            [
                (Entry("setuid", Type.FILE, 0o4755, uid=64030, gid=3_000_000, mtime=1_700_000_000, size=3), b"abc"),
                (Entry(long, Type.FILE, 0o600, size=0), b""),
                (Entry("link", Type.SYMLINK, 0o777, target="t" * 150), b""),
            ]
        )
    )
    environment = {"TZ": "UTC", "LC_ALL": "C.UTF-8", "PATH": "/usr/bin:/bin"}
    argv = ["tar", "--numeric-owner", "-tvf", str(archive)]
    listed = subprocess.run(argv, check=True, capture_output=True, text=True, env=environment).stdout.splitlines()
    assert listed[0].split() == ["-rwsr-xr-x", "64030/3000000", "3", "2023-11-14", "22:13", "setuid"]
    assert listed[1].endswith(long)
    assert listed[2].endswith(f"link -> {'t' * 150}")


@pytest.mark.parametrize("content", [b"four", b"six---"])
def test_content_of_another_size_than_said_is_an_error(content: bytes) -> None:
    with pytest.raises(LayerError, match="a: its content is not the 5 bytes"):
        _written([(Entry("a", Type.FILE, 0o644, size=5), content)])


def test_hard_links_and_devices_are_refused() -> None:
    for kind in (tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as archive:
            member = tarfile.TarInfo("odd")
            member.type = kind
            archive.addfile(member)
        out.seek(0)
        with pytest.raises(LayerError, match="odd"):
            list(read_tar(out))


@pytest.mark.parametrize("path", ["", "/etc", "a//b", "./a", "a/../b", "a/", "line\nbreak", "\udc80"])
def test_paths_that_no_member_may_have(path: str) -> None:
    with pytest.raises(LayerError, match="cannot be a path"):
        canonical(path)


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b'[{"path": "a", "type": "file", "mode": "0", "uid": 0, "gid": 0, "mtime": Infinity}]',
        b"",
        b"{}",
        b"[1]",
        b'[{"path": "a"}]',
        b'[{"path": "/a", "type": "file"}]',
        b"\xff",
    ],
)
def test_a_damaged_manifest_is_an_error(content: bytes) -> None:
    with pytest.raises(LayerError):
        parse_manifest(content)


@pytest.mark.parametrize("time", ["inf", "nan"])
def test_a_time_that_is_no_number_is_an_error(time: str) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        member = tarfile.TarInfo("file")
        member.pax_headers = {"mtime": time}
        archive.addfile(member)
    out.seek(0)
    with pytest.raises(LayerError, match="the archive is damaged"):
        list(read_tar(out))


def test_a_time_beyond_the_header_is_read_back() -> None:
    late = Entry("late", Type.FILE, 0o644, mtime=2**33)
    assert [entry.mtime for entry, _ in read_tar(io.BytesIO(_written([(late, b"")])))] == [2**33]
