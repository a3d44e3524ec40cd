"""What is taken out of a tree, and what stops a module's build."""

from dataclasses import replace
from pathlib import Path

import pytest

from lab.image_layers import directory, file, layer, link
from shoal_image_builder.layers.entry import Entry, LayerError, Type
from shoal_image_builder.layers.layer import file_source
from shoal_image_builder.layers.tar import Source
from shoal_image_builder.modules import recipe as recipes
from shoal_image_builder.modules.bootstrap import _seed_hook
from shoal_image_builder.modules.build import installed
from shoal_image_builder.modules.recipe import Accounts, Group, Recipe, User
from shoal_image_builder.modules.scrub import scrub, without

ACCOUNTS = Accounts(groups={"munge": Group(gid=902)}, users={"munge": User(uid=902, gid=902)})
RECIPE = Recipe(
    name="test",
    version="1.0.0",
    flavor="bookworm",
    description="for a test",
    epoch=1_700_000_000,
    variant="apt",
    packages=["none"],
    directories=["union"],
    files={"etc/made/by-us": "text\n"},
    mask=["slow.service"],
    drop=["opt/*"],
    keep=["opt/kept"],
)


def _scrubbed(*sources: Source) -> dict[str, Entry]:
    return {source.entry.path: source.entry for source in scrub(layer("test", *sources).sources, RECIPE, ACCOUNTS)}


@pytest.mark.parametrize(
    "path",
    [
        *("etc/ssh/ssh_host_rsa_key", "etc/hostname", "etc/resolv.conf", "etc/shadow-", "etc/.pwd.lock"),
        *("var/log/dpkg.log", "var/log/apt/term.log", "var/cache/apt/pkgcache.bin", "var/lib/apt/lists/x_Packages"),
        *("root/.ssh/id", "run/lock/x", "tmp/x", "boot/initrd.img-6.1", "var/lib/dpkg/status-old", "opt/gone"),
        *("etc/apt/sources.list", "etc/apt/sources.list.d/0000x.sources", "var/lib/systemd/random-seed"),
    ],
)
def test_what_belongs_to_the_building_machine_is_taken_out(path: str) -> None:
    assert path not in _scrubbed(file(path, "x"))


def test_directories_stay_where_something_in_them_does() -> None:
    left = _scrubbed(file("opt/kept/file"), file("opt/gone"), file("var/log/x.log"), directory("run/lock"))
    assert "var/log" in left
    assert left["run"].type is Type.DIRECTORY
    assert "run/lock" not in left


def test_directories_named_with_a_slash_go_with_all_that_is_in_them() -> None:
    sources = layer("test", file("a/b/c"), file("a/b/kept"), file("z/y")).sources
    left = [source.entry.path for source in without(sources, ["a/b/", "z/"], ["a/b/kept"])]
    assert left == ["a", "a/b", "a/b/kept"]


def test_what_the_recipe_adds_is_there() -> None:
    made = _scrubbed(file("etc/machine-id", "0123\n"), file("etc/made/other"))
    assert (made["etc/machine-id"].size, made["etc/machine-id"].mode) == (0, 0o444)
    assert made["etc/systemd/system/slow.service"].target == "/dev/null"
    assert made["union"].mode == 0o755
    assert made["etc/made/by-us"].size == 5


def test_nothing_is_younger_than_the_epoch() -> None:
    old, young = file("old"), file("young")
    sources = [
        Source(replace(old.entry, mtime=1_000), old.open),
        Source(replace(young.entry, mtime=2_000_000_000), young.open),
    ]
    made = _scrubbed(*sources)
    assert (made["old"].mtime, made["young"].mtime, made["union"].mtime) == (1_000, RECIPE.epoch, RECIPE.epoch)


_KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\nabc\n"
_PYC = b"\xa7\r\r\n" + bytes(12)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (file("etc/corosync/key.pem", _KEY), "holds a private key"),
        (file("etc/shadow", "root:$y$j9T$abc:1::::::\n"), "root has a password"),
        (file("etc/passwd", "odd:x:777:777::/:/bin/sh\n"), "odd got the number 777 by chance"),
        (file("etc/group", "odd:x:777:\n"), "odd got the number 777 by chance"),
        (file("usr/bin/x", uid=777), "owner 777:0 is not in recipes/accounts.yaml"),
        (file("usr/bin/x", gid=777), "owner 0:777 is not in recipes/accounts.yaml"),
        (file("usr/.wh.x"), "cannot take files away"),
        (file_source(Entry("usr/lib/x.pyc", Type.FILE, 0o644), _PYC), "compiled for the time of its source"),
        (Source(Entry("usr/x", Type.DIRECTORY, 0o755, xattrs=(("system.posix_acl_access", b"x"),))), "posix_acl"),
    ],
)
def test_the_gates(source: Source, reason: str) -> None:
    with pytest.raises(LayerError, match=reason):
        _scrubbed(source)


def test_what_the_gates_let_through() -> None:
    made = _scrubbed(
        file("etc/passwd", "root:x:0:0::/root:/bin/sh\n_apt:x:42:65534::/:/bin/false\nmunge:x:902:902::/:/bin/false\n"),
        file("etc/shadow", "root:*:1::::::\nmunge:!:1::::::\n", gid=42),
        file_source(Entry("usr/lib/x.pyc", Type.FILE, 0o644), _PYC[:4] + b"\x01" + bytes(11)),
        Source(Entry("usr/x", Type.DIRECTORY, 0o755, uid=902, xattrs=(("security.capability", b"x"),))),
        link("usr/share/key", "-----BEGIN PRIVATE KEY-----"),
    )
    assert made["usr/x"].uid == 902


def test_a_member_below_a_link_is_refused() -> None:
    sources = [link("lib", "usr/lib"), Source(Entry("lib/x", Type.DIRECTORY, 0o755))]
    with pytest.raises(LayerError, match="lib above it is no directory"):
        scrub(sources, RECIPE, ACCOUNTS)


def test_the_recipes_of_shoal_are_in_order() -> None:
    accounts = recipes.accounts()
    assert recipes.known() == ["core"]
    core = recipes.load("core")
    assert "linux-image-amd64" in core.packages
    assert set(core.users) <= set(accounts.users)
    assert set(core.groups) <= set(accounts.groups)
    assert core.package == "shoal-module-core-bookworm"
    assert recipes.load("runtime").package == "shoal-runtime"


def test_an_unknown_recipe_names_the_known_ones() -> None:
    with pytest.raises(recipes.RecipeError, match=r"there is no recipe slurm.yaml; known are: core"):
        recipes.load("slurm")


def test_numbers_of_accounts_are_given_once() -> None:
    with pytest.raises(ValueError, match=r"gid \[902\] given to more than one"):
        Accounts(groups={"a": Group(gid=902), "b": Group(gid=902)}, users={})


def test_accounts_are_seeded_with_their_numbers(tmp_path: Path) -> None:
    hook = _seed_hook(tmp_path, RECIPE.model_copy(update={"users": ["munge"], "groups": ["munge"]}), ACCOUNTS)
    text = hook.read_text()
    assert "munge:x:902:902::/nonexistent:/usr/sbin/nologin\n" in text
    assert "munge:!:19675::::::\n" in text
    assert hook.stat().st_mode & 0o111


def test_installed_packages_are_read_from_dpkg() -> None:
    status = b"""Package: b
Status: install ok installed
Version: 2:1-1

Package: a
Status: install ok installed
Description: text
 Version: of another kind
Version: 1

Package: gone
Status: deinstall ok config-files
Version: 3
"""
    assert installed(status) == [("a", "1"), ("b", "2:1-1")]
