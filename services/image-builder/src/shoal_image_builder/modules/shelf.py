"""The modules on offer: the packages in a directory."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from shoal_image_builder.layers import deb
from shoal_image_builder.layers.entry import Entry, LayerError, parse_manifest
from shoal_image_builder.layers.layer import StoredLayer
from shoal_image_builder.modules import recipe
from shoal_model import names

ARCHITECTURE = "amd64"
FOLDER = "usr/share/shoal/module"
"""Where a module's files lie inside its package."""
_MODULE = "shoal-module-"
_FILE = re.compile(rf"(?P<package>[a-z0-9+.-]+)_(?P<version>[0-9]+\.[0-9]+\.[0-9]+)_{ARCHITECTURE}\.deb")


class MissingModule(Exception):
    """No package for a wanted module. The text says what there is, and which command builds it where one can."""


@dataclass(frozen=True)
class Module:
    """A module package. `sha256` and `size` (bytes) are of the layer in it, `made_from` is the digest of its makers."""

    package: Path
    name: str
    version: str
    flavor: str
    description: str
    epoch: int
    sha256: str
    size: int
    packages: int
    made_from: str

    def layer(self) -> StoredLayer:
        """The layer, to be merged."""
        return StoredLayer(self.name, self.sha256, lambda: deb.open_file(self.package, f"{FOLDER}/layer.tar.zst"))

    def manifest(self) -> list[Entry]:
        """What is in the layer."""
        return parse_manifest(self.text("manifest.json"))

    def text(self, name: str) -> bytes:
        """One of the small files beside the layer: `packages.version`, `contents`."""
        with deb.open_file(self.package, f"{FOLDER}/{name}") as file:
            return file.read()


def file_name(package: str, version: str) -> str:
    """The file name of a package."""
    return f"{package}_{version}_{ARCHITECTURE}.deb"


def read_module(package: Path) -> Module:
    """What a package says of itself. LayerError if it is damaged or no module."""
    with deb.open_file(package, f"{FOLDER}/module.json") as file:
        content = file.read()
    try:
        data = json.loads(content)
        return Module(
            package=package,
            name=names.name(data["name"]),
            version=str(data["version"]),
            flavor=names.name(data["flavor"]),
            description=str(data["description"]),
            epoch=int(data["epoch"]),
            sha256=names.digest(data["sha256"]),
            size=int(data["size"]),
            packages=int(data["packages"]),
            made_from=str(data.get("made_from", "")),
        )
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise LayerError(f"{package}: its module.json cannot be read: {error!r}") from error


def offered(folder: Path) -> list[Module]:
    """Every module in a directory, by name, oldest version first. LayerError if one is damaged."""
    found = [read_module(path) for path, package in _packages(folder) if package.startswith(_MODULE)]
    return sorted(found, key=lambda module: (module.name, module.flavor, _number(module.version)))


def find(folder: Path, name: str, flavor: str, version: str) -> Module:
    """The module for an image of this flavor and version: `x.y.z` is that one, `x` and `x.y` their newest.

    Raises MissingModule or LayerError.
    """
    wanted = f"{_MODULE}{name}-{flavor}"
    fitting = [path for path, package in _packages(folder) if package == wanted and _fits(_version(path), version)]
    if not fitting:
        raise MissingModule(
            f"{folder} holds no module {name} for {flavor} {version}; {_on_offer(folder)}; "
            f"{_way_out(folder, name, flavor, version)}"
        )
    return read_module(max(fitting, key=lambda path: _number(_version(path))))


def find_runtime(folder: Path) -> Module:
    """The newest runtime. Raises MissingModule or LayerError."""
    fitting = [path for path, package in _packages(folder) if package == recipe.RUNTIME]
    if not fitting:
        raise MissingModule(
            f"{folder} holds no runtime for nodes; build it with: shoal-image-builder build-runtime --modules {folder}"
        )
    return read_module(max(fitting, key=lambda path: _number(_version(path))))


def _on_offer(folder: Path) -> str:
    told = [
        f"{package.removeprefix(_MODULE)} {_version(path)}"
        for path, package in _packages(folder)
        if package.startswith(_MODULE)
    ]
    return f"modules offered here: {', '.join(told) or 'none'}"


def _way_out(folder: Path, name: str, flavor: str, version: str) -> str:
    """Build it, where there is a recipe for it; else ask for something else."""
    try:
        known = recipe.load(name)
    except (recipe.RecipeError, ValueError):
        return f"there is no recipe {name} either: correct the modules of the image"
    if known.flavor == flavor and _fits(known.version, version):
        return f"build it with: shoal-image-builder build-module {name} --modules {folder}"
    return f"the recipe makes {known.name} for {known.flavor} {known.version}: correct flavor or version of the image"


def _fits(version: str, wanted: str) -> bool:
    return version == wanted or version.startswith(f"{wanted}.")


def _packages(folder: Path) -> list[tuple[Path, str]]:
    found = ((path, _FILE.fullmatch(path.name)) for path in sorted(folder.glob("*.deb")))
    return [(path, match["package"]) for path, match in found if match]


def _version(path: Path) -> str:
    match = _FILE.fullmatch(path.name)
    return match["version"] if match else ""


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))
