#!/usr/bin/env python3
"""Check who may import whom.

A distribution imports the standard library, itself and what its pyproject.toml declares, and nothing else. Services
declare libs, never one another; libs never declare services; the protocol libs declare nothing at all.
"""

import ast
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

PROTOCOL_LIBS = {"shoal-dhcp4", "shoal-tftp-protocol", "shoal-mcast"}


def imported(file: Path) -> Iterator[tuple[int, str]]:
    """Line and top-level name of every import in a file, those inside functions included."""
    for node in ast.walk(ast.parse(file.read_bytes(), str(file))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.partition(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                yield node.lineno, "."
            elif node.module:
                yield node.lineno, node.module.partition(".")[0]


def problems(root: Path) -> Iterator[str]:
    projects = {
        folder: tomllib.loads((folder / "pyproject.toml").read_text())["project"]
        for folder in sorted([*root.glob("libs/*"), *root.glob("services/*")])
        if (folder / "pyproject.toml").exists()
    }
    services = {project["name"] for folder, project in projects.items() if folder.parent.name == "services"}
    distributions = packages_distributions()
    for folder, project in projects.items():
        declared = set(project["dependencies"])
        where = folder.relative_to(root)
        if project["name"] in PROTOCOL_LIBS and declared:
            yield f"{where}/pyproject.toml: a protocol lib declares {sorted(declared)}; it may need nothing"
        for service in sorted(declared & services):
            yield f"{where}/pyproject.toml: depends on the service {service}; talk to it over the bus"
        allowed = {name.lower().replace("_", "-") for name in declared} | {project["name"]}
        for file in sorted(folder.glob("src/**/*.py")):
            for line, module in imported(file):
                if module == ".":
                    yield f"{file.relative_to(root)}:{line}: relative import; write the full name"
                elif module not in sys.stdlib_module_names:
                    owners = {name.lower().replace("_", "-") for name in distributions.get(module, [module])}
                    if not owners & allowed:
                        yield f"{file.relative_to(root)}:{line}: imports {module}, which {where} does not declare"


def main() -> int:
    found = list(problems(Path(__file__).resolve().parent.parent))
    for problem in found:
        print(problem)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
