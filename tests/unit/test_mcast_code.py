"""The repair code: any sufficient set of symbols gives the block."""

import hashlib
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from shoal_mcast import code


def _symbols(count: int, size: int, seed: int) -> list[int]:
    source = random.Random(seed)
    return [int.from_bytes(source.randbytes(size), "little") for _ in range(count)]


def test_the_mask_is_the_one_that_was_agreed() -> None:
    dense = int.from_bytes(hashlib.shake_128(b"7.5").digest(2), "little")
    assert code.mask(7, 5, 16) == dense
    sparse = code.seed_of(5, 1)
    stream = hashlib.shake_128(b"7.%d" % sparse).digest(4)
    assert code.mask(7, sparse, 16) == int.from_bytes(stream[:2], "little") & int.from_bytes(stream[2:], "little")
    assert code.mask(7, 5, 11) == dense & 0x7FF


@given(st.integers(1, 1024), st.integers(0, 3), st.integers(0, 1000))
def test_a_seed_tells_its_density(missing: int, density: int, counter: int) -> None:
    seed = code.seed_of(counter, density)
    assert seed >> 30 == density
    assert seed & code.MAX_COUNTER == counter
    ones = code.mask(1, seed, 4096).bit_count() / 4096
    assert abs(ones - 0.5 ** (density + 1)) < 0.06
    assert 0 <= code.density_for(missing) <= 3


@settings(max_examples=60)
@given(st.integers(1, 200), st.integers(0, 2**32), st.data())
def test_lost_symbols_come_back(count: int, seed: int, data: st.DataObject) -> None:
    symbols = _symbols(count, 64, seed)
    lost = sorted(data.draw(st.sets(st.integers(0, count - 1), min_size=1)))
    known = [0 if position in lost else symbol for position, symbol in enumerate(symbols)]
    density = code.density_for(len(lost))
    repairs: dict[int, bytes] = {}
    rank, solved = 0, dict[int, int]()
    for counter in range(20 * len(lost) + 400):
        number = code.seed_of(counter, density)
        repairs[number] = code.encode(3, number, symbols).to_bytes(64, "little")
        if len(repairs) >= len(lost):
            rank, solved = code.solve(3, known, lost, repairs)
            if rank == len(lost):
                break
    assert rank == len(lost)
    assert solved == {position: symbols[position] for position in lost}


def test_too_few_repair_symbols_solve_nothing() -> None:
    symbols = _symbols(100, 64, 1)
    repairs = {seed: code.encode(0, seed, symbols).to_bytes(64, "little") for seed in range(9)}
    known = [0] * 10 + symbols[10:]
    assert code.solve(0, known, list(range(10)), repairs) == (9, {})


def test_the_overhead_over_the_least_possible_is_about_two_symbols() -> None:
    symbols, lost, needed = _symbols(256, 64, 2), list(range(40)), []
    known = [0] * 40 + symbols[40:]
    for trial in range(20):
        for extra in range(20):
            seeds = range(trial * 1000, trial * 1000 + 40 + extra)
            repairs = {seed: code.encode(0, seed, symbols).to_bytes(64, "little") for seed in seeds}
            if code.solve(0, known, lost, repairs)[0] == 40:
                needed.append(extra)
                break
    assert len(needed) == 20
    assert sum(needed) / len(needed) < 3


@given(st.binary(min_size=1, max_size=500), st.integers(64, 100))
def test_symbols_and_bytes_are_the_same(content: bytes, size: int) -> None:
    symbols = code.as_integers(content, size)
    joined = b"".join(symbol.to_bytes(size, "little") for symbol in symbols)
    assert joined == content.ljust(len(symbols) * size, b"\0")
