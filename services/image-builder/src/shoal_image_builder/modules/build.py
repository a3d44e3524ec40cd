"""Build a module: recipe → packages → scrubbed tree → layer in a `.deb`."""

import hashlib
import io
import json
import os
import shutil
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from shoal_image_builder.layers import deb
from shoal_image_builder.layers.entry import LayerError, Type, canonical, manifest_bytes
from shoal_image_builder.layers.layer import pack
from shoal_image_builder.layers.tar import Source, entry_of
from shoal_image_builder.modules import recipe as recipes
from shoal_image_builder.modules.bootstrap import bootstrap
from shoal_image_builder.modules.scrub import scrub
from shoal_image_builder.modules.shelf import ARCHITECTURE, FOLDER, Module, file_name, read_module
from shoal_image_builder.modules.sources import sources_for
from shoal_image_builder.own import MODULE_BUILD, own_digest
from shoal_image_builder.process import Cancel

Step = Callable[[str], None]
"""Hears what is being done, a few words each."""


@dataclass(frozen=True)
class Content:
    """What goes into a module's package: the recipe, its tree, and the packages (name, version) that came from."""

    recipe: recipes.Recipe
    tree: Sequence[Source]
    packages: Sequence[tuple[str, str]]


def build_module(name: str, modules: Path, *, cancel: Cancel, step: Step) -> Module:
    """Build the module `name` and put its package into `modules`. Needs root, for the packages' own scripts.

    Raises RecipeError, SourcesError, CommandFailed, LayerError or Cancelled, each with a text for people.
    """
    recipe, accounts = recipes.load(name), recipes.accounts()
    if time.time() < recipe.epoch:
        raise LayerError(f"this machine's clock is at {time.ctime()}, before the recipe's epoch: set the clock")
    with workspace() as work:
        tree = bootstrap(recipe, accounts, sources=sources_for(recipe.flavor), work=work, cancel=cancel, step=step)
        step("scrub the tree")
        sources = index(tree)
        status = next(source for source in sources if source.entry.path == "var/lib/dpkg/status")
        content = Content(recipe, scrub(sources, recipe, accounts), installed(_read(status)))
        return store(content, modules, work=work, cancel=cancel, step=step)


def store(content: Content, modules: Path, *, work: Path, cancel: Cancel, step: Step) -> Module:
    """Pack a tree as a layer, wrap it into a package in `modules`, and read that back."""
    recipe = content.recipe
    step("pack the layer")
    data = work / "package" / FOLDER
    data.mkdir(parents=True)
    entries = pack(content.tree, data / "layer.tar.zst")
    (data / "manifest.json").write_bytes(manifest_bytes(entries))
    (data / "packages.version").write_text("".join(f"{name} {version}\n" for name, version in content.packages))
    (data / "contents").write_text("".join(f"{entry.path}\n" for entry in entries))
    (data / "module.json").write_text(json.dumps(_about(recipe, content, data / "layer.tar.zst"), indent=1) + "\n")
    step("make the package")
    modules.mkdir(parents=True, exist_ok=True)
    package = modules / file_name(recipe.package, recipe.version)
    deb.build(package, work / "package", _control(recipe), epoch=recipe.epoch, cancel=cancel)
    return read_module(package)


def index(archive: Path) -> list[Source]:
    """The members of a tar archive, sorted, their contents to be read in any order. Hard links become files.

    Device nodes are left out: on a node /dev is the kernel's. Other special files raise LayerError.
    """
    sources: dict[str, Source] = {}
    with tarfile.open(archive, mode="r:") as tar:
        for member in tar:
            name = member.name.removeprefix("./").strip("/")
            if name in ("", ".") or name.startswith("dev/"):
                continue
            if member.islnk():
                original = sources[canonical(member.linkname.removeprefix("./"))]
                sources[name] = Source(replace(original.entry, path=name), original.open)
            else:
                sources[name] = Source(entry_of(member), _opener(archive, member) if member.isreg() else None)
    return [sources[path] for path in sorted(sources)]


def installed(status: bytes) -> list[tuple[str, str]]:
    """Names and versions of the packages in a dpkg status file, sorted."""
    found = []
    for stanza in status.decode().strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in stanza.splitlines() if ": " in line and not line[0].isspace())
        if fields.get("Status", "").endswith(" installed"):
            found.append((fields["Package"], fields["Version"]))
    return sorted(found)


def up_to_date(name: str, modules: Path) -> Module | None:
    """The package that is there already, if our code and recipe would make it again; None if they would not."""
    recipe = recipes.load(name)
    try:
        module = read_module(modules / file_name(recipe.package, recipe.version))
    except (LayerError, FileNotFoundError):
        return None
    return module if module.made_from == own_digest(MODULE_BUILD) else None


@contextmanager
def workspace() -> Iterator[Path]:
    """A directory of our own on a disk (a tree needs a gigabyte), gone afterwards whatever happens."""
    parent = os.environ.get("TMPDIR", "/var/tmp")
    work = Path(tempfile.mkdtemp(prefix="shoal-module-", dir=parent))
    try:
        work.chmod(0o755)  # apt fetches as a user of its own
        yield work
    finally:
        shutil.rmtree(work)


def _about(recipe: recipes.Recipe, content: Content, layer: Path) -> dict[str, Any]:
    with layer.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "name": recipe.name,
        "version": recipe.version,
        "flavor": recipe.flavor,
        "description": recipe.description,
        "epoch": recipe.epoch,
        "sha256": digest,
        "size": layer.stat().st_size,
        "packages": len(content.packages),
        "made_from": own_digest(MODULE_BUILD),
    }


def _control(recipe: recipes.Recipe) -> dict[str, str]:
    return {
        "Package": recipe.package,
        "Version": recipe.version,
        "Architecture": ARCHITECTURE,
        "Maintainer": "Shoal",
        "Section": "admin",
        "Priority": "optional",
        "Description": recipe.description,
    }


def _opener(archive: Path, member: tarfile.TarInfo) -> Callable[[], io.BufferedReader]:
    start, size = member.offset_data, member.size
    return lambda: io.BufferedReader(deb.Slice(archive.open("rb"), start, size), 1 << 17)


def _read(source: Source) -> bytes:
    if source.open is None or source.entry.type is not Type.FILE:
        raise LayerError(f"{source.entry.path} is no file")
    with source.open() as content:
        return content.read()
