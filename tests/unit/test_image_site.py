"""The site's layer: root's password, the operator's files, what the image was made from; and Root FS trees."""

import gzip
import os
import socket
import tarfile
from pathlib import Path

import pytest

from lab.image_layers import EPOCH, core, write_module
from shoal_execd.archives import LARGEST_ARCHIVE
from shoal_image_builder import rootfs
from shoal_image_builder.images.site import root_password, site_layer
from shoal_image_builder.layers.entry import LayerError
from shoal_image_builder.rootfs import BadTree, pack_tree


@pytest.mark.parametrize(
    ("text", "password"),
    [
        ("root:$y$j9T$salt$hash:19000:0:99999:7:::\nbin:*:1::::::\n", "$y$j9T$salt$hash"),
        ("bin:$6$no$no:1::::::\nroot:$6$a$b:1::::::\n", "$6$a$b"),
        ("root:*:19000::::::\n", "*"),
        ("root:!$y$locked:19000::::::\n", "*"),
        ("root::19000::::::\n", "*"),
        ("root:old-des-hash:19000::::::\n", "*"),
        ("", "*"),
    ],
)
def test_root_has_the_password_of_the_head_or_none(tmp_path: Path, text: str, password: str) -> None:
    (tmp_path / "shadow").write_text(text)
    assert root_password(tmp_path / "shadow") == password


def test_a_shadow_file_is_bytes(tmp_path: Path) -> None:
    shadow = tmp_path / "shadow"
    shadow.write_bytes(b"j\xf6rg:x:1::::::\nroot:$6$a$b:1::::::\n")
    assert root_password(shadow) == "$6$a$b"
    shadow.write_bytes(b"root:$6$\xf6$b:1::::::\n")
    with pytest.raises(LayerError, match=str(shadow)):
        root_password(shadow)


def test_without_a_shadow_file_root_is_locked(tmp_path: Path) -> None:
    assert root_password(tmp_path / "missing") == "*"


def test_the_operators_files_are_copied_the_images_over_the_common_ones(tmp_path: Path) -> None:
    module = write_module(tmp_path / "modules", core())
    common, own = tmp_path / "common", tmp_path / "own"
    for tree, text in ((common, "common"), (own, "own")):
        (tree / "etc").mkdir(parents=True)
        (tree / "etc/motd").write_text(text)
    (common / "lib/modules-load.d").mkdir(parents=True)
    (common / "lib/modules-load.d/x.conf").write_text("x\n")
    (common / "etc/secret").write_text("s")
    (common / "etc/secret").chmod(0o600)
    (common / "etc/link").symlink_to("motd")
    made = {source.entry.path: source for source in site_layer([module], [common, own], "*", EPOCH).sources}
    opened = made["etc/motd"].open
    assert opened is not None
    assert opened().read() == b"own"
    assert made["usr/lib/modules-load.d/x.conf"].entry.mtime == EPOCH
    assert made["etc/secret"].entry.mode == 0o600
    assert made["etc/link"].entry.target == "motd"
    listed = made["usr/share/doc/shoal-image/core.packages.version.gz"].open
    assert listed is not None
    assert gzip.decompress(listed().read()) == b"core 1.0.0\n"


def test_the_layer_depends_on_content_alone(tmp_path: Path) -> None:
    module = write_module(tmp_path / "modules", core())
    digests = []
    for name in ("one", "two"):
        tree = tmp_path / name / "etc"
        tree.mkdir(parents=True)
        (tree / "motd").write_text("same")
        digests.append(site_layer([module], [tmp_path / name], "*", EPOCH).digest)
    assert digests[0] == digests[1]
    assert site_layer([module], [tmp_path / "two"], "$6$x$y", EPOCH).digest != digests[0]


def test_accounts_and_sockets_are_not_copied(tmp_path: Path) -> None:
    module = write_module(tmp_path / "modules", core())
    tree = tmp_path / "tree"
    (tree / "etc").mkdir(parents=True)
    (tree / "etc/shadow").write_text("root::1::::::\n")
    with pytest.raises(LayerError, match="etc/shadow cannot be copied"):
        site_layer([module], [tree], "*", EPOCH)
    (tree / "etc/shadow").unlink()
    os.mkfifo(tree / "etc/pipe")
    with pytest.raises(LayerError, match="etc/pipe is a socket, pipe or device"):
        site_layer([module], [tree], "*", EPOCH)


def _tree(folder: Path) -> Path:
    (folder / "etc/app").mkdir(parents=True)
    (folder / "etc/app/conf").write_text("x = 1\n")
    (folder / "etc/app/conf").chmod(0o640)
    (folder / "etc/link").symlink_to("/etc/app/conf")
    (folder / "etc/a-file").write_text("")
    for path in sorted(folder.rglob("*"), reverse=True):
        os.utime(path, (EPOCH, EPOCH), follow_symlinks=False)
    return folder


def test_a_tree_is_packed_with_its_metadata_the_same_each_time(tmp_path: Path) -> None:
    assert pack_tree(_tree(tmp_path / "one"), tmp_path / "one.tar") == 5
    assert pack_tree(_tree(tmp_path / "two"), tmp_path / "two.tar") == 5
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()
    with tarfile.open(tmp_path / "one.tar") as archive:
        members = {member.name: member for member in archive}
        assert list(members) == ["etc", "etc/a-file", "etc/app", "etc/app/conf", "etc/link"]
        conf = members["etc/app/conf"]
        assert (conf.mode, conf.uid, conf.gid, conf.mtime) == (0o640, os.getuid(), os.getgid(), EPOCH)
        assert members["etc/link"].linkname == "/etc/app/conf"
        content = archive.extractfile(conf)
        assert content is not None
        assert content.read() == b"x = 1\n"


def test_an_empty_tree_is_an_archive_without_members(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert pack_tree(tmp_path / "empty", tmp_path / "a.tar") == 0
    with tarfile.open(tmp_path / "a.tar") as archive:
        assert archive.getnames() == []


def test_what_cannot_be_sent_to_a_node_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadTree, match=r"there is no directory .*/missing: make it"):
        pack_tree(tmp_path / "missing", tmp_path / "a.tar")
    (tmp_path / "tree").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "tree/sock"))
        with pytest.raises(BadTree, match=r"tree/sock is a socket, pipe or device, .*: remove it"):
            pack_tree(tmp_path / "tree", tmp_path / "a.tar")
    (tmp_path / "tree/sock").unlink()
    os.close(os.open(os.fsencode(tmp_path / "tree") + b"/\xff", os.O_CREAT | os.O_WRONLY))
    with pytest.raises(BadTree, match="it is not UTF-8"):
        pack_tree(tmp_path / "tree", tmp_path / "a.tar")


def test_a_file_that_shrinks_meanwhile_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "log").write_text("12345")
    whole = Path.lstat
    monkeypatch.setattr(Path, "lstat", lambda path: os.stat_result((*whole(path)[:6], 99, *whole(path)[7:])))
    with pytest.raises(BadTree, match="commit again"):
        pack_tree(tree, tmp_path / "a.tar")


def test_a_time_beyond_the_header_arrives(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "late").write_text("x")
    os.utime(tree / "late", (2**33 + 7, 2**33 + 7))
    kept = int((tree / "late").stat().st_mtime)  # file systems have limits of their own
    pack_tree(tree, tmp_path / "a.tar")
    with tarfile.open(tmp_path / "a.tar") as archive:
        assert archive.getmember("late").mtime == kept


def test_a_tree_that_nodes_would_refuse_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert rootfs.LARGEST == LARGEST_ARCHIVE
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "large").touch()
    os.truncate(tree / "large", rootfs.LARGEST)
    with pytest.raises(BadTree, match=r"/tree is 8\.0 GiB; a node takes 8 GiB at most"):
        pack_tree(tree, tmp_path / "a.tar")
    assert not (tmp_path / "a.tar").exists()
    os.truncate(tree / "large", 1000)
    monkeypatch.setattr(rootfs, "LARGEST", 2000)
    with pytest.raises(BadTree, match="makes an archive of more than"):
        pack_tree(tree, tmp_path / "a.tar")


def test_a_link_that_is_not_text_is_named(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    os.symlink(b"\xff", tree / "odd")
    with pytest.raises(BadTree, match=r"tree/odd is a link to .*not UTF-8"):
        pack_tree(tree, tmp_path / "a.tar")
