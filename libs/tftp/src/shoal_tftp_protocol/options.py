"""Which options of a read request a server grants, and with which values."""

from collections.abc import Mapping
from dataclasses import dataclass, field

DEFAULT_BLOCK_SIZE = 512
_MIN_BLOCK_SIZE, _MAX_BLOCK_SIZE = 8, 65464
_MAX_DIGITS = 18


@dataclass(frozen=True, slots=True)
class Limits:
    """What a server grants at most.

    `block_size` in bytes keeps datagrams below the path's MTU; `window` in blocks and `window_bytes` bound a burst;
    `timeout` in seconds bounds how long a client may ask the server to wait between retransmissions; `patience` is the
    time without progress, in seconds, after which a transfer is given up.
    """

    block_size: int = _MAX_BLOCK_SIZE
    window: int = 64
    window_bytes: int = 256 * 1024
    timeout: int = 30
    patience: float = 30.0


@dataclass(frozen=True, slots=True)
class Negotiated:
    """The values that hold for a transfer. `granted` is what the OACK says; empty: there is none."""

    block_size: int = DEFAULT_BLOCK_SIZE
    window: int = 1
    timeout: float | None = None
    granted: Mapping[str, str] = field(default_factory=dict)


def negotiate(options: Mapping[str, str], size: int | None, limits: Limits) -> Negotiated:
    """Decide about the options of a request for a file of `size` bytes (None: not known beforehand).

    Options that are unknown or have values outside their RFC are left out of the answer, as RFC 2347 wants it.
    """
    granted: dict[str, str] = {}
    block_size = _number(options.get("blksize"), _MIN_BLOCK_SIZE, _MAX_BLOCK_SIZE)  # RFC 2348
    if block_size is not None:
        block_size = min(block_size, max(limits.block_size, _MIN_BLOCK_SIZE))
        granted["blksize"] = str(block_size)
    block_size = block_size or DEFAULT_BLOCK_SIZE
    timeout = _number(options.get("timeout"), 1, 255)  # RFC 2349
    if timeout is not None and timeout <= limits.timeout:
        granted["timeout"] = str(timeout)
    else:
        timeout = None
    # RFC 2349: the client sends 0 and is told the size. An empty file's is not told: curl takes `tsize=0` for an error.
    if size and _number(options.get("tsize"), 0, None) is not None:
        granted["tsize"] = str(size)
    window = _number(options.get("windowsize"), 1, 65535)  # RFC 7440
    if window is not None:
        window = max(1, min(window, limits.window, limits.window_bytes // block_size))
        granted["windowsize"] = str(window)
    return Negotiated(block_size, window or 1, None if timeout is None else float(timeout), granted)


def _number(value: str | None, lowest: int, highest: int | None) -> int | None:
    """A decimal number between both, else None. Digits alone: `int()` would take signs, spaces and underscores too."""
    if value is None or not value.isascii() or not value.isdigit() or len(value) > _MAX_DIGITS:
        return None
    number = int(value)
    return number if number >= lowest and (highest is None or number <= highest) else None


def agreed(requested: Mapping[str, str], granted: Mapping[str, str]) -> Negotiated:
    """What an OACK means for the client that sent `requested`. Raises ValueError if the server may not say that."""
    for name in granted:
        if name not in requested:
            raise ValueError(f"the server grants option {name!r}, which was not asked for")
    block_size, window = DEFAULT_BLOCK_SIZE, 1
    if "blksize" in granted:
        block_size = _at_most("blksize", granted["blksize"], _MIN_BLOCK_SIZE, int(requested["blksize"]))
    if "windowsize" in granted:
        window = _at_most("windowsize", granted["windowsize"], 1, int(requested["windowsize"]))
    if "tsize" in granted and _number(granted["tsize"], 0, None) is None:
        raise ValueError(f"the server says tsize={granted['tsize']!r}, which is no size")
    if "timeout" in granted and granted["timeout"] != requested["timeout"]:
        raise ValueError(f"the server says timeout={granted['timeout']!r}, not {requested['timeout']}")
    timeout = float(granted["timeout"]) if "timeout" in granted else None
    return Negotiated(block_size, window, timeout, dict(granted))


def _at_most(name: str, value: str, lowest: int, highest: int) -> int:
    number = _number(value, lowest, highest)
    if number is None:
        raise ValueError(f"the server says {name}={value!r}; {lowest} to {highest} is allowed")
    return number
