"""File names as clients send them, what they stand for, and what never leaves the tree."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal_tftp.files import NotServed, loader, own_file
from shoal_tftp.paths import (
    BadPath,
    DefaultConfig,
    ImageFile,
    IpxeScript,
    LoaderFile,
    NodeConfig,
    OwnFile,
    Part,
    TrustFile,
    Wanted,
    locate,
)

DIGEST = "ab" * 32


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("pxelinux.0", LoaderFile("pxelinux.0", "pxelinux")),
        ("/lpxelinux.0", LoaderFile("lpxelinux.0", "pxelinux")),
        ("ldlinux.c32", LoaderFile("ldlinux.c32", "syslinux-common")),
        ("undionly.kpxe", LoaderFile("undionly.kpxe", "ipxe")),
        ("\\snponly.efi", LoaderFile("snponly.efi", "ipxe")),
        ("snponly-arm64.efi", LoaderFile("snponly-arm64.efi", None)),
        ("./ipxe.efi", LoaderFile("ipxe.efi", "ipxe")),
        ("pxelinux.cfg/default", DefaultConfig()),
        ("//pxelinux.cfg//default", DefaultConfig()),
        ("pxelinux.cfg/0A4D000B", NodeConfig("0A4D000B")),
        ("pxelinux.cfg/0A4D000", OwnFile("pxelinux.cfg/0A4D000")),
        ("pxelinux.cfg/0a4d000b", OwnFile("pxelinux.cfg/0a4d000b")),
        ("pxelinux.cfg/01-52-54-00-77-00-11", OwnFile("pxelinux.cfg/01-52-54-00-77-00-11")),
        ("boot.ipxe", IpxeScript()),
        ("shoal/images/compute/kernel", ImageFile("compute", Part.KERNEL)),
        (f"shoal/images/{DIGEST}/initrd", ImageFile(DIGEST, Part.INITRD)),
        ("shoal/images/compute/squashfs", ImageFile("compute", Part.SQUASHFS)),
        ("shoal/ca.crt", TrustFile()),
        ("/shoal//ca.crt", TrustFile()),
        ("ca.crt", OwnFile("ca.crt")),
        ("shoal/images/compute/passwd", OwnFile("shoal/images/compute/passwd")),
        ("shoal/images/Compute/kernel", OwnFile("shoal/images/Compute/kernel")),
        ("sub/pxelinux.0", OwnFile("sub/pxelinux.0")),
        ("memtest/mt86 plus.bin", OwnFile("memtest/mt86 plus.bin")),
        ("..x/y..", OwnFile("..x/y..")),
    ],
)
def test_what_a_name_stands_for(name: str, wanted: Wanted) -> None:
    assert locate(name) == wanted


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/",
        ".",
        "..",
        "../etc/passwd",
        "a/../../b",
        "a/..",
        "..\\..\\x",
        "a\0b",
        "a\nb",
        "\udcff",
        "x" * 1025,
        "\x7f",
    ],
)
def test_what_nobody_asks_for_in_good_faith(name: str) -> None:
    with pytest.raises(BadPath):
        locate(name)


@given(st.text() | st.lists(st.sampled_from(["..", ".", "/", "\\", "a", "\0", "pxelinux.cfg"])).map("".join))
def test_no_name_leads_out_of_the_tree(name: str) -> None:
    try:
        wanted = locate(name)
    except BadPath:
        return
    if isinstance(wanted, OwnFile):
        assert not wanted.path.startswith("/")
        assert ".." not in wanted.path.split("/")
        assert os.path.normpath(f"/root/{wanted.path}").startswith("/root/")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tftpboot"
    (root / "sub").mkdir(parents=True)
    (root / "file").write_text("file")
    (root / "sub" / "inner").write_text("inner")
    (tmp_path / "secret").write_text("secret")
    (root / "inside").symlink_to("sub/inner")
    (root / "outside").symlink_to("../secret")
    (root / "absolute").symlink_to("/etc/passwd")
    (root / "folder").symlink_to("..")
    (root / "loop").symlink_to("loop")
    (root / "dangling").symlink_to("nowhere")
    os.mkfifo(root / "fifo")
    return root


@pytest.mark.parametrize(("name", "content"), [("file", "file"), ("sub/inner", "inner"), ("inside", "inner")])
def test_own_files(tree: Path, name: str, content: str) -> None:
    assert own_file(tree, name).read_text() == content


@pytest.mark.parametrize("name", ["outside", "absolute", "folder/secret", "fifo"])
def test_what_is_forbidden(tree: Path, name: str) -> None:
    with pytest.raises(NotServed) as raised:
        own_file(tree, name)
    assert raised.value.forbidden
    assert raised.value.worth_a_log


@pytest.mark.parametrize("name", ["missing", "sub", "sub/", "file/below", "dangling", "loop", "a" * 300])
def test_what_is_not_there(tree: Path, name: str) -> None:
    with pytest.raises(NotServed) as raised:
        own_file(tree, name)
    assert not raised.value.forbidden


def test_a_tree_that_does_not_exist_has_no_files(tmp_path: Path) -> None:
    with pytest.raises(NotServed):
        own_file(tmp_path / "none", "file")


def test_the_tree_itself_may_be_a_symbolic_link(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tree)
    assert own_file(tmp_path / "link", "file").read_text() == "file"


def test_loaders_come_from_the_first_folder_and_the_operators_own_goes_before(tree: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    (second / "ipxe.efi").symlink_to(tmp_path / "secret")
    assert loader(tree, [first, second], "ipxe.efi", "ipxe").read_text() == "secret"
    (first / "ipxe.efi").write_text("first")
    assert loader(tree, [first, second], "ipxe.efi", "ipxe").read_text() == "first"
    (tree / "ipxe.efi").write_text("own")
    assert loader(tree, [first, second], "ipxe.efi", "ipxe").read_text() == "own"


def test_a_missing_loader_names_its_package(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(NotServed, match="install Debian's package pxelinux, or set SHOAL_LOADERS") as raised:
        loader(tree, [tmp_path / "a", tmp_path / "b"], "pxelinux.0", "pxelinux")
    assert raised.value.worth_a_log
