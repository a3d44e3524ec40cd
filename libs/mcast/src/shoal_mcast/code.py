"""The repair code: random linear combinations over GF(2), on Python's big integers.

A repair symbol is the XOR of those source symbols of its block that a mask selects; the mask follows from block and
seed, so the datagram carries four bytes for it. Any k + 2 or so independent symbols, source or repair, give the block.
"""

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from itertools import compress
from operator import xor

_BIT = bytes([0] * 49 + [1] + [0] * 206)  # the character "1" → 1, everything else → 0
_CLASS_SHIFT = 30
MAX_COUNTER = (1 << _CLASS_SHIFT) - 1


def seed_of(counter: int, density: int) -> int:
    """A seed: the density class in its top two bits, below them a counter that never repeats within a block."""
    return density << _CLASS_SHIFT | counter & MAX_COUNTER


def density_for(missing: int) -> int:
    """The sparsest class that still decodes: each symbol is chosen with probability 1/2, 1/4, 1/8 or 1/16.

    With m symbols missing, q ≥ (ln m + 4)/m keeps the chance of a mask without any of them below e⁻⁴.
    """
    q = (math.log(missing + 1) + 4) / (missing + 1)
    return 0 if q > 0.25 else 1 if q > 0.125 else 2 if q > 0.0625 else 3


def mask(block: int, seed: int, symbols: int) -> int:
    """Which of the block's `symbols` symbols a repair symbol combines: bit i for symbol i.

    SHAKE128 of "<block>.<seed>" in decimal gives d + 1 strings of bits (little-endian), d being the density class;
    the mask is their AND.
    """
    width = (symbols + 7) // 8
    draws = (seed >> _CLASS_SHIFT) + 1
    stream = hashlib.shake_128(b"%d.%d" % (block, seed)).digest(width * draws)
    chosen = (1 << symbols) - 1
    for start in range(0, width * draws, width):
        chosen &= int.from_bytes(stream[start : start + width], "little")
    return chosen


def as_integers(content: bytes | memoryview, symbol_size: int) -> list[int]:
    """A block's symbols as integers (little-endian), the last one padded with zeros."""
    return [
        int.from_bytes(content[start : start + symbol_size], "little")
        for start in range(0, len(content), symbol_size)
    ]  # fmt: skip


def combine(symbols: Sequence[int], chosen: int) -> int:
    """XOR of the symbols whose bit is set in `chosen`."""
    bits = f"{chosen:b}".zfill(len(symbols))[::-1].encode().translate(_BIT)
    return reduce(xor, compress(symbols, bits), 0)


def encode(block: int, seed: int, symbols: Sequence[int]) -> int:
    """One repair symbol of a block."""
    return combine(symbols, mask(block, seed, len(symbols)))


def solve(
    block: int, known: Sequence[int], lost: Sequence[int], repairs: Mapping[int, bytes]
) -> tuple[int, dict[int, int]]:
    """Find the lost symbols of a block: `known` holds all of its symbols, 0 in the place of a lost one.

    `repairs` maps seeds to repair symbols. Returns the rank reached, and the lost symbols by position: empty while the
    rank is below their number.
    """
    unknown = reduce(lambda bits, position: bits | 1 << position, lost, 0)
    rows: dict[int, tuple[int, int]] = {}
    for coefficients, value in _reduced(block, known, unknown, repairs):
        _insert(rows, coefficients, value)
        if len(rows) == len(lost):
            return len(rows), _substitute(rows)
    return len(rows), {}


def _reduced(block: int, known: Sequence[int], unknown: int, repairs: Mapping[int, bytes]) -> Iterable[tuple[int, int]]:
    """Each repair symbol with what is known taken out: (lost symbols in it, their XOR)."""
    for seed, content in repairs.items():
        chosen = mask(block, seed, len(known))
        yield chosen & unknown, int.from_bytes(content, "little") ^ combine(known, chosen)


def _insert(rows: dict[int, tuple[int, int]], coefficients: int, value: int) -> None:
    """Add an equation to the triangular system `rows`, keyed by highest bit; one that says nothing new is dropped."""
    while coefficients:
        top = coefficients.bit_length() - 1
        row = rows.get(top)
        if row is None:
            rows[top] = coefficients, value
            return
        coefficients ^= row[0]
        value ^= row[1]


def _substitute(rows: dict[int, tuple[int, int]]) -> dict[int, int]:
    """Solve a full triangular system from its lowest symbol upwards."""
    solved: dict[int, int] = {}
    for top in sorted(rows):
        coefficients, value = rows[top]
        rest = coefficients ^ 1 << top
        while rest:
            bit = rest.bit_length() - 1
            value ^= solved[bit]
            rest ^= 1 << bit
        solved[top] = value
    return solved
