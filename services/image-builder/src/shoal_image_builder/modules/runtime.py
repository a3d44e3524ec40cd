"""Build the runtime: Debian's Python, PyNaCl with it, moved under /usr/lib/shoal, with a loader and libraries of its
own.

Only the interpreter is changed (patchelf): it names its own loader, and its forced RPATH leads itself and everything
it loads to its own libraries, so nothing of the image is ever mixed in.
"""

import os
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from shoal_image_builder.layers.entry import Entry, LayerError, Type
from shoal_image_builder.layers.layer import loose
from shoal_image_builder.layers.tar import Source
from shoal_image_builder.modules import recipe as recipes
from shoal_image_builder.modules.bootstrap import bootstrap
from shoal_image_builder.modules.build import Content, Step, index, store, workspace
from shoal_image_builder.modules.scrub import without
from shoal_image_builder.modules.shelf import Module
from shoal_image_builder.modules.sources import sources_for
from shoal_image_builder.node_python import LIBRARIES, LOADER, PREFIX, PYTHON, STDLIB, NodePython
from shoal_image_builder.process import Cancel, output, run

_DEBIAN_PYTHON = ("usr/lib/python3.11/", "usr/lib/python3/dist-packages/")
"""The standard library, and what does not come with it: on nodes both are one."""
_BINARIES = {PYTHON: "usr/bin/python3.11", f"{PREFIX}/bin/busybox": "bin/busybox"}
_LIBRARY_FOLDERS = ("lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu")
_DEB = re.compile(r"var/cache/apt/archives/(?P<name>[^_/]+)_(?P<version>[^_]+)_[^_]+\.deb")
_MUST_WORK = """\
import argparse, asyncio, concurrent.futures, ctypes, dataclasses, email.parser, fcntl, hashlib, http.client, inspect
import importlib.metadata, ipaddress, json, logging.handlers, mmap, nacl.signing, platform, pwd, queue, random
import resource, secrets, select, shlex, shutil, signal, socket, ssl, struct, subprocess, sys, tarfile, tempfile
import termios, threading, traceback, typing, urllib.request, uuid, zlib
ssl.create_default_context()
hashlib.sha256(b"").hexdigest()
ctypes.CDLL(None).getpid()
asyncio.run(asyncio.sleep(0))
key = nacl.signing.SigningKey.generate()
key.verify_key.verify(key.sign(b"a boot"))
assert sys.prefix == "/usr/lib/shoal", sys.prefix
"""
"""What an agent imports; run where there are no libraries but the runtime's own."""


def build_runtime(modules: Path, *, cancel: Cancel, step: Step) -> Module:
    """Build the runtime's package into `modules`. Needs root. Raises as `build_module` does."""
    recipe = recipes.load("runtime")
    with workspace() as work:
        archive = bootstrap(
            recipe,
            recipes.accounts(),
            sources=sources_for(recipe.flavor),
            work=work,
            cancel=cancel,
            step=step,
        )
        step("move it under /usr/lib/shoal")
        sources = {source.entry.path: source for source in index(archive)}
        root = work / "root"
        _relocate(sources, recipe, root, cancel=cancel)
        step("compile the standard library")
        python = NodePython(root)
        python.compile(root / STDLIB, f"/{STDLIB}", cancel=cancel)
        step("try it where there is nothing else")
        python.run_alone(_MUST_WORK, cancel=cancel)
        content = Content(recipe, tree_sources(root, recipe.epoch), _packages(sources))
        return store(content, modules, work=work, cancel=cancel, step=step)


def tree_sources(root: Path, epoch: int) -> list[Source]:
    """The files under a directory as members of a layer: owned by root, as old as `epoch`, executable or not."""
    files = (path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    return list(loose("tree", [_source(path, path.relative_to(root).as_posix(), epoch) for path in files]).sources)


def _source(path: Path, name: str, epoch: int) -> Source:
    status = path.stat()
    mode = 0o755 if status.st_mode & 0o100 else 0o644
    return Source(Entry(name, Type.FILE, mode, mtime=epoch, size=status.st_size), lambda: path.open("rb"))


def _relocate(sources: Mapping[str, Source], recipe: recipes.Recipe, root: Path, *, cancel: Cancel) -> None:
    for path, origin in _BINARIES.items():
        _extract(sources, origin, root / path, executable=True)
    for source in without(list(sources.values()), recipe.drop, recipe.keep):
        path = source.entry.path
        folder = next((folder for folder in _DEBIAN_PYTHON if path.startswith(folder)), None)
        if folder is not None and path.endswith((".py", ".so")) and source.open is not None:
            _extract(sources, path, root / STDLIB / path.removeprefix(folder))
    wanted = [root / PYTHON, *sorted((root / STDLIB).rglob("*.so"))]
    seen: set[str] = set()
    while wanted:
        for name in sorted(_needed(wanted.pop(), cancel) - seen):
            seen.add(name)
            library = root / LIBRARIES / name
            _extract(sources, _library(sources, name), library, executable=name == Path(LOADER).name)
            wanted.append(library)
    argv = ["patchelf", "--set-interpreter", f"/{LOADER}", "--force-rpath", "--set-rpath", f"/{LIBRARIES}"]
    run([*argv, str(root / PYTHON)], cancel=cancel)


def _needed(binary: Path, cancel: Cancel) -> set[str]:
    return set(output(["patchelf", "--print-needed", str(binary)], cancel=cancel).decode().split()) | {
        Path(LOADER).name
    }


def _library(sources: Mapping[str, Source], name: str) -> str:
    for folder in _LIBRARY_FOLDERS:
        source = sources.get(f"{folder}/{name}")
        if source is not None:
            return source.entry.path
    raise LayerError(f"the runtime's packages hold no {name}: add its package to recipes/runtime.yaml")


def _extract(sources: Mapping[str, Source], origin: str, target: Path, *, executable: bool = False) -> None:
    source = sources.get(origin)
    while source is not None and source.entry.type is Type.SYMLINK:
        beside = os.path.normpath(os.path.join(os.path.dirname(source.entry.path), source.entry.target))
        source = sources.get(beside.lstrip("/"))
    if source is None or source.open is None:
        raise LayerError(f"the runtime's packages hold no file {origin}")
    target.parent.mkdir(parents=True, exist_ok=True)
    with source.open() as content, target.open("wb") as file:
        shutil.copyfileobj(content, file)
    target.chmod(0o755 if executable else 0o644)


def _packages(sources: Iterable[str]) -> list[tuple[str, str]]:
    found = (_DEB.fullmatch(path) for path in sources)
    return sorted((match["name"], match["version"].replace("%3a", ":")) for match in found if match)
