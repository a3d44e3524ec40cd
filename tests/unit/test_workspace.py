"""The rules of the workspace hold, and their checks can fail."""

import runpy
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
problems: Callable[[Path], Iterator[str]] = runpy.run_path(str(ROOT / "scripts/check_imports.py"))["problems"]


def project(root: Path, kind: str, name: str, dependencies: list[str], source: str) -> None:
    folder = root / kind / name
    module = folder / "src" / f"shoal_{name}"
    module.mkdir(parents=True)
    (folder / "pyproject.toml").write_text(f'[project]\nname = "shoal-{name}"\ndependencies = {dependencies}\n')
    (module / "main.py").write_text(source)


def test_the_workspace_keeps_its_import_rules() -> None:
    assert list(problems(ROOT)) == []


@pytest.mark.parametrize(
    ("kind", "name", "dependencies", "source", "expected"),
    [
        ("libs", "dhcp4", ["pydantic"], "", "a protocol lib declares ['pydantic']"),
        ("libs", "dhcp4", [], "def f():\n    import nats\n", "imports nats"),
        ("services", "dhcp", ["shoal-tftp"], "", "depends on the service shoal-tftp"),
        ("services", "dhcp", [], "import shoal_registry\n", "imports shoal_registry"),
        ("services", "dhcp", [], "from . import settings\n", "relative import"),
    ],
)
def test_a_breach_is_named(
    tmp_path: Path, kind: str, name: str, dependencies: list[str], source: str, expected: str
) -> None:
    project(tmp_path, "services", "tftp", [], "")
    project(tmp_path, kind, name, dependencies, source)
    found = list(problems(tmp_path))
    assert len(found) == 1
    assert expected in found[0]
