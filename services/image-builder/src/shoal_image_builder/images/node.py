"""The node's own code: execd and what it imports, found among the installed packages without importing any of it.

It is the last of Shoal's own layers, so that a new execd changes no module and no runtime.
"""

import ast
import hashlib
import importlib.util
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from shoal_image_builder.layers.entry import Entry, LayerError, Type
from shoal_image_builder.layers.layer import LooseLayer, loose
from shoal_image_builder.layers.tar import Source
from shoal_image_builder.modules.runtime import tree_sources
from shoal_image_builder.node_python import PREFIX, STDLIB, NodePython
from shoal_image_builder.process import Cancel

_WHOLE = ("shoal_execd", "shoal_mcast", "nats", "msgpack")
_IMPORTED = ("shoal_bus", "shoal_identity", "shoal_model")
"""Of these a node gets what its code imports; much of the rest needs pydantic, which nodes do not have."""
_AGENT = "shoal_execd"
_DATA = "data"
INIT = "init"
"""The data file that becomes the initrd's first process; the others have their places in the image."""
_PLACES = {
    "init.shoal": ("usr/sbin/init.shoal", 0o755),
    "shoal-execd": (f"{PREFIX}/bin/shoal-execd", 0o755),
    "shoal-execd.service": ("usr/lib/systemd/system/shoal-execd.service", 0o644),
}
_ENABLED = ("etc/systemd/system/multi-user.target.wants/shoal-execd.service", "/lib/systemd/system/shoal-execd.service")


@dataclass(frozen=True)
class NodeCode:
    """The files of the node's code on this machine: by where they go below the library, and the entry points."""

    library: dict[str, Path]
    data: dict[str, Path]

    @property
    def digest(self) -> str:
        """SHA-256 over all sources and their places."""
        listed = {f"{kind}/{name}": _sha256(path) for kind, files in self._kinds() for name, path in files.items()}
        return hashlib.sha256(json.dumps(listed, sort_keys=True).encode()).hexdigest()

    def _kinds(self) -> tuple[tuple[str, dict[str, Path]], ...]:
        return ("library", self.library), ("data", self.data)


def collect() -> NodeCode:
    """Find the node's code. LayerError names what is not installed."""
    library: dict[str, Path] = {}
    for name in _WHOLE:
        folder = _package(name)
        files = (path for path in sorted(folder.rglob("*")) if path.is_file() and _belongs(path.relative_to(folder)))
        library |= {f"{name}/{path.relative_to(folder).as_posix()}": path for path in files}
    library |= _imports([path for name, path in library.items() if name.startswith("shoal_")])
    data_folder = f"{_AGENT}/{_DATA}/"
    names = (INIT, *_PLACES)
    data = {name: library.pop(data_folder + name) for name in names if data_folder + name in library}
    missing = sorted(set(names) - set(data))
    if missing:
        raise LayerError(f"{_AGENT} has no {_DATA}/{', '.join(missing)}: install shoal-execd of the same release")
    return NodeCode(library, data)


def compile_layer(code: NodeCode, python: NodePython, work: Path, *, epoch: int, cancel: Cancel) -> LooseLayer:
    """The layer of the node's code, compiled by the node's Python under `work`, where its files then lie."""
    root = work / "node"
    for name, source in code.library.items():
        target = root / STDLIB / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    python.compile(root / STDLIB, f"/{STDLIB}", cancel=cancel)
    sources = [source for source in tree_sources(root, epoch) if source.entry.type is Type.FILE]
    sources += [_placed(code.data[name], path, mode, epoch) for name, (path, mode) in _PLACES.items()]
    path, target_of_link = _ENABLED
    sources.append(Source(Entry(path, Type.SYMLINK, 0o777, mtime=epoch, target=target_of_link)))
    return loose("node", sources)


def _placed(source: Path, path: str, mode: int, epoch: int) -> Source:
    return Source(
        Entry(path, Type.FILE, mode, mtime=epoch, size=source.stat().st_size, sha256=_sha256(source)),
        lambda: source.open("rb"),
    )


def _belongs(path: Path) -> bool:
    return "__pycache__" not in path.parts and path.suffix not in (".so", ".pyc", ".pyi") and path.name != "py.typed"


def _package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise LayerError(f"the package {name} is not installed beside shoal-image-builder; nodes need it")
    return Path(next(iter(spec.submodule_search_locations)))


def _imports(files: list[Path]) -> dict[str, Path]:
    """Every module of the packages `_IMPORTED` that these files import, or that those import in turn."""
    found: dict[str, Path] = {}
    left = list(files)
    while left:
        for module in _imported_modules(left.pop()):
            package, *rest = module.split(".")
            if package not in _IMPORTED:
                continue
            for name in (f"{package}/__init__.py", *([f"{package}/{'/'.join(rest)}.py"] if rest else [])):
                path = _package(package).parent / name
                if name not in found and path.is_file():
                    found[name] = path
                    left.append(path)
    return found


def _imported_modules(file: Path) -> Iterator[str]:
    if file.suffix != ".py":
        return
    for node in ast.walk(ast.parse(file.read_bytes(), str(file))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
