"""Layers and module packages: the same bytes each time, and damage is seen."""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from lab.image_layers import CORE_FILES, core, directory, file, layer, link, write_module
from shoal_image_builder.layers import deb
from shoal_image_builder.layers.entry import Entry, LayerError, Type, content_digest
from shoal_image_builder.layers.layer import StoredLayer, loose, pack
from shoal_image_builder.layers.tar import Source
from shoal_image_builder.modules import shelf
from shoal_image_builder.process import Cancel


def _stored(path: Path) -> StoredLayer:
    return StoredLayer("test", hashlib.sha256(path.read_bytes()).hexdigest(), lambda: path.open("rb"))


def test_a_packed_layer_gives_its_members_back(tmp_path: Path) -> None:
    made = layer("test", file("b", "two"), directory("a", 0o700), link("a/l", "../b"), file("a-b", "one"))
    entries = pack(made.sources, tmp_path / "layer")
    assert [entry.path for entry in entries] == ["a", "a-b", "a/l", "b"]
    read = [(entry, content.read() if content else None) for entry, content in _stored(tmp_path / "layer").members()]
    assert [entry.path for entry, _ in read] == [entry.path for entry in entries]
    assert [content for _, content in read] == [None, b"one", None, b"two"]
    assert content_digest(entries) == made.digest


def test_the_order_in_which_members_are_named_plays_no_part(tmp_path: Path) -> None:
    sources = [file(f"f{number}", "x" * number) for number in range(50)]
    pack(sources, tmp_path / "a")
    pack(sources[::-1], tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def _read_all(layer: StoredLayer) -> None:
    for _, content in layer.members():
        if content:
            content.read()


@pytest.mark.parametrize("damage", [lambda data: data[:-30], lambda data: data[:100] + b"\xff" + data[101:]])
def test_damage_is_an_error(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "layer"
    pack(core().sources, path)
    whole = _stored(path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(LayerError, match="damaged"):
        _read_all(whole)


def test_a_layer_completes_the_directories_above_its_members() -> None:
    made = loose("test", [file("a/b/c")])
    assert [(source.entry.path, source.entry.mode) for source in made.sources][:2] == [("a", 0o755), ("a/b", 0o755)]


def test_a_member_below_a_file_is_refused() -> None:
    with pytest.raises(LayerError, match="a/b lies below a, which is a file"):
        loose("test", [file("a"), file("a/b")])
    with pytest.raises(LayerError, match="a is there twice"):
        loose("test", [file("a"), file("a")])


def test_a_module_package_is_the_same_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = write_module(tmp_path / "a", core())
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    before = os.umask(0o077)
    try:
        second = write_module(tmp_path / "b", core())
    finally:
        os.umask(before)
    assert first.package.read_bytes() == second.package.read_bytes()
    assert first.sha256 == second.sha256


def test_a_module_is_read_out_of_its_package(tmp_path: Path) -> None:
    module = write_module(tmp_path, core(Source(Entry("tmp", Type.DIRECTORY, 0o1777))))
    assert module == shelf.read_module(tmp_path / "shoal-module-core-bookworm_1.0.0_amd64.deb")
    assert (module.name, module.version, module.packages) == ("core", "1.0.0", 1)
    manifest = {entry.path: entry for entry in module.manifest()}
    assert manifest["etc/shadow"].sha256 == hashlib.sha256(CORE_FILES["etc/shadow"].encode()).hexdigest()
    assert manifest["tmp"].mode == 0o1777
    assert [entry.path for entry, _ in module.layer().members()] == list(manifest)
    assert module.text("packages.version") == b"core 1.0.0\n"
    assert b"etc/shadow\n" in module.text("contents")


def test_dpkg_understands_a_module_package(tmp_path: Path) -> None:
    module = write_module(tmp_path, core())
    told = subprocess.run(["dpkg-deb", "-f", module.package, "Package", "Version"], capture_output=True, check=True)
    assert told.stdout == b"Package: shoal-module-core-bookworm\nVersion: 1.0.0\n"
    listed = subprocess.run(["dpkg-deb", "-c", module.package], capture_output=True, check=True).stdout
    assert b"root/root" in listed
    assert b"./usr/share/shoal/module/layer.tar.zst" in listed


BACKWARDS = b"other".ljust(16) + b"0".ljust(12) + b"0".ljust(6) * 2 + b"0".ljust(8) + b"-60".ljust(10) + b"`\n"


@pytest.mark.parametrize(
    "content", [b"", b"!<arch>\n", b"!<arch>\n" + b"x" * 60, b"MZ" * 100, b"!<arch>\n" + BACKWARDS]
)
def test_what_is_no_package_is_an_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "shoal-module-core-bookworm_1.0.0_amd64.deb"
    path.write_bytes(content)
    with pytest.raises(LayerError, match=path.name):
        shelf.find(tmp_path, "core", "bookworm", "1")


@pytest.mark.parametrize(
    ("field", "value"),
    [("epoch", "Infinity"), ("epoch", "[" * 100_000), ("name", '"../x"'), ("flavor", "1"), ("sha256", '"x"')],
)
def test_a_module_that_says_nonsense_of_itself_is_named(tmp_path: Path, field: str, value: str) -> None:
    told = {"name": '"core"', "version": '"1"', "flavor": '"b"', "description": '""', "epoch": "1", "size": "1"}
    told |= {"sha256": f'"{"a" * 64}"', "packages": "1", field: value}
    folder = tmp_path / "tree" / shelf.FOLDER
    folder.mkdir(parents=True)
    (folder / "module.json").write_text("{" + ", ".join(f'"{key}": {text}' for key, text in told.items()) + "}")
    control = {"Package": "odd", "Version": "1", "Architecture": "all", "Maintainer": "x", "Description": "x"}
    deb.build(tmp_path / "odd.deb", tmp_path / "tree", control, epoch=0, cancel=Cancel())
    with pytest.raises(LayerError, match=r"odd\.deb: its module\.json cannot be read"):
        shelf.read_module(tmp_path / "odd.deb")


def test_another_package_is_no_module(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    control = {"Package": "other", "Version": "1", "Architecture": "all", "Maintainer": "x", "Description": "x"}
    deb.build(tmp_path / "other.deb", tmp_path / "tree", control, epoch=0, cancel=Cancel())
    with pytest.raises(LayerError, match="it is no module of Shoal"):
        shelf.read_module(tmp_path / "other.deb")


@pytest.mark.parametrize(
    ("wanted", "found"),
    [("1", "1.10.0"), ("1.0", "1.0.2"), ("1.0.1", "1.0.1"), ("1.10", "1.10.0"), ("2.0", None), ("1.0.9", None)],
)
def test_versions_follow_the_newest_of_theirs(tmp_path: Path, wanted: str, found: str | None) -> None:
    first = write_module(tmp_path, layer("core", file("a")), version="1.0.1")
    for version in ("1.0.2", "1.10.0"):
        shutil.copy(first.package, tmp_path / f"shoal-module-core-bookworm_{version}_amd64.deb")
    if found is None:
        with pytest.raises(shelf.MissingModule, match="the recipe makes core for bookworm") as refused:
            shelf.find(tmp_path, "core", "bookworm", wanted)
        assert "offered here: core-bookworm 1.0.1, core-bookworm 1.0.2, core-bookworm 1.10.0;" in str(refused.value)
    else:
        assert f"_{found}_" in shelf.find(tmp_path, "core", "bookworm", wanted).package.name


@pytest.mark.parametrize(
    ("name", "flavor", "version", "advice"),
    [
        ("core", "bookworm", "1.0", "build it with: shoal-image-builder build-module core --modules"),
        ("core", "trixie", "1.0", "the recipe makes core for bookworm 1.0.0"),
        ("core", "bookworm", "7", "the recipe makes core for bookworm 1.0.0"),
        ("frob", "bookworm", "1.0", "there is no recipe frob either"),
    ],
)
def test_a_missing_module_is_to_be_built_only_where_its_recipe_makes_it(
    tmp_path: Path, name: str, flavor: str, version: str, advice: str
) -> None:
    with pytest.raises(shelf.MissingModule, match="modules offered here: none") as refused:
        shelf.find(tmp_path, name, flavor, version)
    assert advice in str(refused.value)
    assert ("build-module" in str(refused.value)) == (advice.startswith("build it"))


def test_a_missing_runtime_names_its_command(tmp_path: Path) -> None:
    with pytest.raises(shelf.MissingModule, match="shoal-image-builder build-runtime --modules"):
        shelf.find_runtime(tmp_path)
