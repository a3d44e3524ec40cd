"""Module packages: `.deb` files whose data is stored uncompressed, so that a layer is read right out of the package,
without unpacking and without root.

The format is deb(5): an ar(5) archive of `debian-binary`, `control.tar` and `data.tar`.
"""

import io
import os
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from shoal_image_builder.layers.entry import LayerError
from shoal_image_builder.layers.tar import UNREADABLE
from shoal_image_builder.process import Cancel, run

_MAGIC = b"!<arch>\n"
_HEADER_BYTES = 60


def build(out: Path, tree: Path, control: Mapping[str, str], *, epoch: int, cancel: Cancel) -> None:
    """Make the package `out` of the files under `tree`, which gets a DEBIAN directory for it; the same bytes each time.

    `epoch` (seconds) becomes the time of everything in it.
    """
    folder = tree / "DEBIAN"
    folder.mkdir(mode=0o755)
    (folder / "control").write_text("".join(f"{field}: {value}\n" for field, value in control.items()))
    for path in (*tree.rglob("*"), tree):
        path.chmod(0o755 if path.is_dir() else 0o644)
        os.utime(path, (epoch, epoch))
    partial = out.with_name(f".{out.name}.partial")
    argv = ["dpkg-deb", "-Znone", "--root-owner-group", "--build", str(tree), str(partial)]
    try:
        run(argv, cancel=cancel, env={"SOURCE_DATE_EPOCH": str(epoch)})
        os.replace(partial, out)
    finally:
        partial.unlink(missing_ok=True)


def open_file(package: Path, path: str) -> IO[bytes]:
    """A file in a package's data, for reading and seeking. LayerError if the package or the file in it is not there."""
    try:
        stream = package.open("rb")
    except OSError as error:
        raise LayerError(f"{package} cannot be read: {error.strerror}") from error
    try:
        start, size = _find(stream, package, path)
        return io.BufferedReader(Slice(stream, start, size), 1 << 20)
    except BaseException:
        stream.close()
        raise


class Slice(io.RawIOBase):
    """`size` bytes of a file from `start`, as a file of its own; closing it closes the file."""

    def __init__(self, file: IO[bytes], start: int, size: int) -> None:
        self._file, self._start, self._size, self._at = file, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        wanted = max(0, min(len(buffer), self._size - self._at))
        self._file.seek(self._start + self._at)
        chunk = self._file.read(wanted)
        buffer[: len(chunk)] = chunk
        self._at += len(chunk)
        return len(chunk)

    def close(self) -> None:
        self._file.close()
        super().close()


def _find(stream: IO[bytes], package: Path, path: str) -> tuple[int, int]:
    data_start, data_size = _ar_member(stream, package, b"data.tar")
    data = io.BufferedReader(Slice(_unclosed(stream), data_start, data_size))
    try:
        with tarfile.open(fileobj=data, mode="r:") as archive:
            for member in archive:
                if member.size < 0:  # the next member would be one that was read before, without end
                    raise LayerError(f"{package} is damaged: {member.name} has {member.size} bytes")
                if member.name == f"./{path}":
                    return data_start + member.offset_data, member.size
    except UNREADABLE as error:
        raise LayerError(f"{package} is damaged: {error}") from error
    raise LayerError(f"{package} holds no {path}: it is no module of Shoal")


def _ar_member(stream: IO[bytes], package: Path, name: bytes) -> tuple[int, int]:
    if stream.read(len(_MAGIC)) != _MAGIC:
        raise LayerError(f"{package} is no Debian package")
    while len(header := stream.read(_HEADER_BYTES)) == _HEADER_BYTES:
        digits = header[48:58].strip()
        if not digits.isdigit():
            break
        size = int(digits)
        if header[:16].rstrip(b" /") == name:
            return stream.tell(), size
        stream.seek(size + size % 2, os.SEEK_CUR)
    raise LayerError(f"{package} holds no uncompressed {name.decode()}: it is damaged, or no module of Shoal")


def _unclosed(stream: IO[bytes]) -> IO[bytes]:
    """The same open file under a descriptor of its own, so that closing one leaves the other open."""
    return os.fdopen(os.dup(stream.fileno()), "rb")
