"""How an image is cut: blocks of `block_symbols` symbols of `symbol_size` bytes. The last of each may be shorter."""

from dataclasses import dataclass

MAX_BLOCKS = 65_535
_MIN_SYMBOL, _MAX_SYMBOL, _MAX_BLOCK_SYMBOLS = 64, 65_000, 65_535


@dataclass(frozen=True)
class Geometry:
    """Sizes in bytes. ValueError for what the protocol cannot carry."""

    size: int
    symbol_size: int
    block_symbols: int

    def __post_init__(self) -> None:
        if not _MIN_SYMBOL <= self.symbol_size <= _MAX_SYMBOL:
            raise ValueError(f"symbol size {self.symbol_size} is not within {_MIN_SYMBOL} to {_MAX_SYMBOL} bytes")
        if not 1 <= self.block_symbols <= _MAX_BLOCK_SYMBOLS:
            raise ValueError(f"{self.block_symbols} symbols in a block: expected 1 to {_MAX_BLOCK_SYMBOLS}")
        if not 1 <= self.size <= MAX_BLOCKS * self.block_size:
            raise ValueError(f"{self.size} bytes do not fit into 1 to {MAX_BLOCKS} blocks of {self.block_size} bytes")

    @property
    def block_size(self) -> int:
        """Bytes of every block but the last."""
        return self.symbol_size * self.block_symbols

    @property
    def symbols(self) -> int:
        """Symbols of the whole image."""
        return -(-self.size // self.symbol_size)

    @property
    def blocks(self) -> int:
        """Blocks of the whole image."""
        return -(-self.size // self.block_size)

    def symbols_in(self, block: int) -> int:
        """Symbols of one block: `block_symbols`, or fewer in the last."""
        return min(self.block_symbols, self.symbols - block * self.block_symbols)

    def span(self, block: int) -> tuple[int, int]:
        """First byte of a block in the image, and the byte behind its last."""
        start = block * self.block_size
        return start, min(start + self.block_size, self.size)
