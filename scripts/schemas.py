#!/usr/bin/env python3
"""Write docs/schemas: one JSON Schema for each message and record. With --check, fail if what is there would break."""

import argparse
import json
import sys
from pathlib import Path

from shoal_model.schemas import breaking, schemas

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "schemas"


def differences() -> list[str]:
    """What in the models would break a peer that goes by docs/schemas."""
    now = schemas()
    found = []
    for path in sorted(FOLDER.glob("*.json")):
        if path.stem not in now:
            found.append(f"{path.stem}: the whole message is gone")
        else:
            found += [f"{path.stem}.{line}" for line in breaking(json.loads(path.read_text()), now[path.stem])]
    return found


def write() -> None:
    """Write every schema, and remove those of messages that are gone."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    now = schemas()
    for path in FOLDER.glob("*.json"):
        if path.stem not in now:
            path.unlink()
    for name, schema in now.items():
        (FOLDER / f"{name}.json").write_text(json.dumps(schema, indent=1, sort_keys=True) + "\n")


def main() -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only say what would break")
    parser.add_argument("--accept-breaking", action="store_true", help="write in spite of what breaks")
    arguments = parser.parse_args()
    found = differences()
    for line in found:
        print(line, file=sys.stderr)
    if found and not arguments.accept_breaking:
        print("a rename is a new message; fields are only ever added, and optional", file=sys.stderr)
        return 1
    if not arguments.check:
        write()
    return 0


if __name__ == "__main__":
    sys.exit(main())
