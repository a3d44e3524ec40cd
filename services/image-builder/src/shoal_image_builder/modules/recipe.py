"""Recipes: what a module is made of, as YAML beside this file."""

from importlib import resources
from importlib.resources.abc import Traversable
from typing import Annotated, Literal, Self, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from shoal_image_builder.layers.entry import canonical
from shoal_model import names

Path = Annotated[str, AfterValidator(canonical)]
Name = Annotated[str, AfterValidator(names.name)]
_NO_MODULES = ("accounts.yaml", "runtime.yaml")
RUNTIME = "shoal-runtime"
"""The package of the node's own Python."""
T = TypeVar("T", bound=BaseModel)


class RecipeError(Exception):
    """A recipe is missing or wrong. The text is for people."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Group(_Part):
    """A system group with its fixed number."""

    gid: int = Field(ge=100, le=65533)


class User(_Part):
    """A system user with its fixed numbers; it logs in nowhere."""

    uid: int = Field(ge=100, le=65533)
    gid: int = Field(ge=100, le=65534)
    home: str = "/nonexistent"
    comment: str = ""


class Accounts(_Part):
    """The one numbered registry of system users and groups, so that modules built apart never collide."""

    groups: dict[str, Group]
    users: dict[str, User]

    @model_validator(mode="after")
    def _numbers_are_unique(self) -> Self:
        for what, numbers in (
            ("gid", [group.gid for group in self.groups.values()]),
            ("uid", [user.uid for user in self.users.values()]),
        ):
            twice = sorted({number for number in numbers if numbers.count(number) > 1})
            if twice:
                raise ValueError(f"{what} {twice} given to more than one account")
        return self


class Recipe(_Part):
    """A module. Patterns are those of fnmatch(3), `*` matching `/` too; paths in the tree have no leading `/`."""

    name: Name
    version: str = Field(pattern=r"^[0-9]+\.[0-9]+\.[0-9]+$")
    flavor: Name
    description: str
    epoch: int = Field(description="seconds; nothing in the module is younger")
    variant: Literal["apt", "extract"] = Field(description="mmdebstrap's: install on a base, or unpack alone")
    packages: list[str] = Field(min_length=1)
    environment: dict[str, str] = Field(default_factory=dict, description="for the packages' maintainer scripts")
    users: list[str] = Field(default_factory=list, description="accounts of the registry that packages will ask for")
    groups: list[str] = Field(default_factory=list)
    exclude: list[str] = Field(default_factory=list, description="absolute paths that dpkg never unpacks")
    include: list[str] = Field(default_factory=list, description="exceptions from `exclude`")
    drop: list[str] = Field(default_factory=list, description="what is left out of the finished tree")
    keep: list[str] = Field(default_factory=list, description="exceptions from `drop`")
    directories: list[Path] = Field(default_factory=list, description="made, 0755 root")
    files: dict[Path, str] = Field(default_factory=dict, description="written, 0644 root")
    links: dict[Path, str] = Field(default_factory=dict, description="symbolic links")
    mask: list[str] = Field(default_factory=list, description="systemd units that must not run")

    @property
    def package(self) -> str:
        """The module's name as a package; the runtime serves every flavor."""
        return RUNTIME if self.variant == "extract" else f"shoal-module-{self.name}-{self.flavor}"


def load(name: str) -> Recipe:
    """The recipe of this name. RecipeError if there is none, or if it is wrong."""
    return _parse(Recipe, f"{names.name(name)}.yaml")


def accounts() -> Accounts:
    """The registry of system users and groups."""
    return _parse(Accounts, "accounts.yaml")


def known() -> list[str]:
    """The names of all modules' recipes."""
    suffix = ".yaml"
    found = (file.name for file in _folder().iterdir() if file.name.endswith(suffix))
    return sorted(name.removesuffix(suffix) for name in found if name not in _NO_MODULES)


def _folder() -> Traversable:
    return resources.files(__package__) / "recipes"


def _parse(model: type[T], file: str) -> T:
    try:
        return model.model_validate(yaml.safe_load((_folder() / file).read_text()))
    except FileNotFoundError:
        raise RecipeError(f"there is no recipe {file}; known are: {', '.join(known())}") from None
    except (yaml.YAMLError, ValidationError) as error:
        raise RecipeError(f"recipe {file}: {error}") from error
