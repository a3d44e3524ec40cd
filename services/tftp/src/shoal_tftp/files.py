"""Files on disk: the operator's own, and the loaders. Functions here block: call them in a thread."""

import stat
from collections.abc import Sequence
from pathlib import Path


class NotServed(Exception):
    """A file that a client does not get; the message tells both the client and the operator why.

    `forbidden` tells apart what must not be had from what is not there; `worth_a_log` what an operator should see from
    what loaders ask for as a matter of course.
    """

    def __init__(self, reason: str, *, forbidden: bool = False, worth_a_log: bool = False) -> None:
        super().__init__(reason)
        self.forbidden = forbidden
        self.worth_a_log = worth_a_log or forbidden


def own_file(root: Path, relative: str) -> Path:
    """The real path of a file below `root`. Raises NotServed if it is not there, no regular file, or if a symbolic link
    leads out of `root`.
    """
    try:
        top = root.resolve(strict=True)
        path = (top / relative).resolve(strict=True)
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise NotServed(f"no such file: {relative}") from None
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of symbolic links
        raise NotServed(f"{relative} cannot be read: {error}", worth_a_log=True) from error
    if not path.is_relative_to(top):
        raise NotServed(f"{relative} is a symbolic link that leads out of {root}: copy the file there", forbidden=True)
    if not stat.S_ISREG(mode):
        what = "a directory" if stat.S_ISDIR(mode) else "no regular file"
        raise NotServed(f"{relative} is {what}", forbidden=not stat.S_ISDIR(mode))
    return path


def loader(own: Path, folders: Sequence[Path], name: str, package: str | None) -> Path:
    """The path of a loader: the operator's own file of that name, else the first in `folders`.

    Raises NotServed, naming the package to install, or where to put the file if no package has it.
    """
    try:
        return own_file(own, name)
    except NotServed as error:
        if error.forbidden:
            raise
    for folder in folders:
        path = folder / name
        # Debian's ipxe.efi is a symbolic link into /boot: what these folders hold may lie anywhere.
        if path.is_file():
            return path
    if package is None:
        raise NotServed(f"no Debian package has {name}: put it into {own} (SHOAL_TFTPBOOT)", worth_a_log=True)
    places = ", ".join(map(str, folders))
    raise NotServed(
        f"{name} is in none of {places}: install Debian's package {package}, or set SHOAL_LOADERS", worth_a_log=True
    )
