"""The merge of layers: what is joined, what wins, what is a conflict; in whatever order modules are named."""

import hashlib
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest

from lab.image_layers import CORE_FILES, core, directory, file, layer, link
from shoal_image_builder.images.merge import Rank, Ranked, merge
from shoal_image_builder.images.shared import Version, handler_for
from shoal_image_builder.layers.entry import LayerError
from shoal_image_builder.layers.layer import LooseLayer, StoredLayer, pack


def _merged(*layers: tuple[LooseLayer, Rank]) -> dict[str, str | None]:
    ranked = [Ranked(each, rank) for each, rank in layers]
    return {
        entry.path: content.read().decode() if content else entry.target or None for entry, content in merge(ranked)
    }


def test_layers_are_joined_in_order_of_paths() -> None:
    merged = _merged((core(), Rank.CORE), (layer("node", file("usr/sbin/init.shoal", "x")), Rank.OWN))
    assert list(merged) == sorted(merged)
    assert merged["usr/sbin/init.shoal"] == "x"
    assert merged["etc/passwd"] == CORE_FILES["etc/passwd"]


_MUNGE = layer(
    "slurm",
    file("etc/passwd", CORE_FILES["etc/passwd"] + "munge:x:902:902::/:/bin/false\n"),
    file("var/lib/dpkg/status", CORE_FILES["var/lib/dpkg/status"] + "Package: munge\nArchitecture: amd64\n\n"),
    file("var/lib/dpkg/statoverride", "root root 755 /a\n"),
    file("usr/share/same", "same"),
)
_HA = layer(
    "ha",
    file("etc/passwd", CORE_FILES["etc/passwd"] + "hacluster:x:903:903::/:/bin/false\n"),
    file("var/lib/dpkg/status", CORE_FILES["var/lib/dpkg/status"] + "Package: corosync\nArchitecture: amd64\n\n"),
    file("var/lib/dpkg/statoverride", "root root 755 /b\n"),
    file("usr/share/same", "same"),
)


def test_shared_files_of_modules_are_joined_whatever_their_order() -> None:
    parts = [(core(), Rank.CORE), (_MUNGE, Rank.MODULE), (_HA, Rank.MODULE)]
    results = [_merged(*order) for order in itertools.permutations(parts)]
    assert all(result == results[0] for result in results)
    assert results[0]["etc/passwd"] == (
        "root:x:0:0:root:/root:/bin/bash\nhacluster:x:903:903::/:/bin/false\nmunge:x:902:902::/:/bin/false\n"
    )
    status = results[0]["var/lib/dpkg/status"] or ""
    assert [line for line in status.splitlines() if line.startswith("Package")] == [
        "Package: base",
        "Package: corosync",
        "Package: munge",
    ]
    assert results[0]["var/lib/dpkg/statoverride"] == "root root 755 /a\nroot root 755 /b\n"
    assert results[0]["usr/share/same"] == "same"


def test_the_site_sets_passwords_and_replaces_files() -> None:
    site = layer("site", file("etc/shadow", "root:$6$x$y\n"), file("etc/motd", "ours"), directory("etc", 0o700))
    base = core(file("etc/motd", "theirs"))
    merged = {entry.path: entry for entry, _ in merge([Ranked(base, Rank.CORE), Ranked(site, Rank.SITE)])}
    assert merged["etc"].mode == 0o755
    contents = _merged((base, Rank.CORE), (site, Rank.SITE))
    assert contents["etc/shadow"] == "root:$6$x$y:20228:0:99999:7:::\n"
    assert contents["etc/motd"] == "ours"


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        (layer("a", file("usr/x", "1")), layer("b", file("usr/x", "2")), "usr/x: the file of layer b .* contradicts"),
        (layer("a", file("usr/x")), layer("b", file("usr/x", mode=0o755)), r"0755 0:0\) contradicts"),
        (layer("a", file("usr/x")), layer("b", file("usr/x", uid=5)), "contradicts"),
        (layer("a", file("usr/x")), layer("b", directory("usr/x")), "contradicts"),
        (layer("a", link("usr/x", "y")), layer("b", link("usr/x", "z")), "contradicts"),
        (layer("a", directory("usr/x")), layer("b", directory("usr/x", 0o700)), "contradicts"),
        (layer("a", file("lib/x")), layer("b"), "lib: the symlink|contradicts"),
        (layer("a", file("etc/passwd", "b:x:1:1::/:\n")), layer("b", file("etc/passwd", "c:x:1:1::/:\n")), "number 1"),
        (layer("a", file("etc/passwd", "root:x:0:1::/:\n")), layer("b"), "root is not the same in a"),
        (layer("a", link("etc/passwd", "x")), layer("b"), "layer a has no file there"),
        (
            layer("a", file("var/lib/dpkg/status", "Package: base\nArchitecture: all\nVersion: 2\n")),
            layer("b"),
            "must come from one release",
        ),
    ],
)
def test_conflicts(first: LooseLayer, second: LooseLayer, reason: str) -> None:
    with pytest.raises(LayerError, match=reason):
        _merged((core(), Rank.CORE), (first, Rank.MODULE), (second, Rank.MODULE))


def test_the_site_cannot_turn_a_directory_into_a_file_nor_invent_accounts() -> None:
    with pytest.raises(LayerError, match="usr: the file of layer site"):
        _merged((core(), Rank.CORE), (layer("site", file("usr")), Rank.SITE))
    with pytest.raises(LayerError, match="the site sets a password for eve, which no module has"):
        _merged((core(), Rank.CORE), (layer("site", file("etc/shadow", "eve:x\n")), Rank.SITE))


def test_a_layer_that_is_not_sorted_is_refused(tmp_path: Path) -> None:
    unsorted = LooseLayer("odd", (file("b"), file("a")))
    with pytest.raises(LayerError, match="layer odd: a comes after b: it is not sorted"):
        _merged((unsorted, Rank.CORE))


def _opener(path: Path) -> Callable[[], IO[bytes]]:
    return lambda: path.open("rb")


def test_stored_layers_are_merged_as_loose_ones_are(tmp_path: Path) -> None:
    ranked = []
    for made, rank in ((core(), Rank.CORE), (_MUNGE, Rank.MODULE), (_HA, Rank.MODULE)):
        path = tmp_path / made.name
        pack(made.sources, path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        ranked.append(Ranked(StoredLayer(made.name, digest, _opener(path)), rank))
    stored = {
        entry.path: content.read().decode() if content else entry.target or None for entry, content in merge(ranked)
    }
    assert stored == _merged((core(), Rank.CORE), (_MUNGE, Rank.MODULE), (_HA, Rank.MODULE))


@pytest.mark.parametrize(
    ("path", "versions", "joined"),
    [
        ("var/lib/dpkg/diversions", ["/a\n/b\nx\n", "/c\n/d\ny\n", "/a\n/b\nx\n"], "/a\n/b\nx\n/c\n/d\ny\n"),
        ("var/lib/dpkg/triggers/File", ["/usr/b x\n", "/usr/a y\n"], "/usr/a y\n/usr/b x\n"),
        ("var/cache/debconf/config.dat", ["Name: b\nValue: 1\n\n", "Name: a\n\n"], "Name: a\n\nName: b\nValue: 1\n\n"),
        ("var/lib/apt/extended_states", ["Package: b\nArchitecture: x\n\n"] * 2, "Package: b\nArchitecture: x\n\n"),
    ],
)
def test_handlers(path: str, versions: list[str], joined: str) -> None:
    handler = handler_for(path)
    assert handler is not None
    assert handler(path, [Version(f"layer{number}", text) for number, text in enumerate(versions)]) == joined


def test_a_file_that_nobody_shares_has_no_handler() -> None:
    assert handler_for("usr/bin/env") is None
