"""Compiles Python sources to byte code, the same bytes each time. Run by the node's own Python, so that the byte code
is right for it; standard library alone, and as little of that as possible.

Usage: python3 -S -B python_compiler.py ROOT PREFIX. Every `*.py` under ROOT is replaced by its `.pyc`, whose code
believes to come from below PREFIX. The byte code is never checked against its source (PEP 552): there is none.

Byte code marks values that are referred to more than once, and whether a value is depends on what else the process
has loaded; hence one fresh process that does nothing else, and files in order of their names.
"""

import importlib.util
import marshal
import os
import sys

_UNCHECKED_HASH = (1).to_bytes(4, "little")


def main(root: str, prefix: str) -> None:
    """Compile every source under `root`."""
    sources = [os.path.join(folder, name) for folder, _, names in os.walk(root) for name in names if name[-3:] == ".py"]
    for path in sorted(sources):
        with open(path, "rb") as file:
            source = file.read()
        code = compile(source, prefix + path[len(root) :], "exec", dont_inherit=True, optimize=0)
        header = importlib.util.MAGIC_NUMBER + _UNCHECKED_HASH + importlib.util.source_hash(source)
        with open(path + "c", "wb") as file:
            file.write(header + marshal.dumps(code))
    for path in sources:
        os.unlink(path)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
