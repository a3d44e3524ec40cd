"""Polls and what comes of them: how many repair symbols each block needs now.

A poll asks all receivers at once; its outcome is, block by block, the greatest number any of them misses: a repair
symbol helps everybody, so the most unlucky receiver of a block decides.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

_TRIES = 6
_FIRST_GUESS = 0.05
_LEAST_PATIENCE, _MOST_PATIENCE = 0.06, 0.5
_HEAVY = 0.45
"""From this share of a block's symbols on, sending its source symbols again costs less than coding."""


@dataclass
class _Outstanding:
    blocks: int
    asked: float
    tries: int = 1
    answers: dict[int, dict[int, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Need:
    """A block, and how many of its symbols the receiver with the fewest still needs."""

    block: int
    missing: int
    symbols: int

    @property
    def heavy(self) -> bool:
        """Whether the block is better sent anew than repaired."""
        return self.missing > _HEAVY * self.symbols

    @property
    def repairs(self) -> int:
        """Repair symbols to send: so many that the same share of loss again leaves enough, most of the time."""
        loss = min(0.2, self.missing / self.symbols)
        return math.ceil((self.missing + 1) / (1 - loss)) + 2 + int(math.sqrt(self.missing * loss))


class Rounds:
    """Polls by number, and the queue of needs. `symbols` gives the number of symbols of each block."""

    def __init__(self, symbols: Sequence[int]) -> None:
        self._symbols = symbols
        self._number = 0
        self._polls: dict[int, _Outstanding] = {}
        self._queue: dict[int, int] = {}
        self._repaired = [0] * len(symbols)
        self._delay = _FIRST_GUESS

    @property
    def waiting(self) -> bool:
        """Whether a poll is out."""
        return bool(self._polls)

    def open(self, blocks: int, now: float) -> int:
        """A poll about the first `blocks` blocks goes out; its number."""
        self._number += 1
        self._polls[self._number] = _Outstanding(blocks, now)
        return self._number

    def answer(self, receiver: int, number: int, missing: Sequence[tuple[int, int]], now: float) -> None:
        """A receiver's report. What it says of blocks that were not asked about, or do not exist, is ignored."""
        poll = self._polls.get(number)
        if poll is None:
            return
        if receiver not in poll.answers and poll.tries == 1:
            self._delay += (now - poll.asked - self._delay) / 8
        told = poll.answers.setdefault(receiver, {})
        for block, count in missing:
            if block < poll.blocks:
                told[block] = min(count, self._symbols[block])

    def settle(self, receivers: Collection[int], now: float) -> list[tuple[int, int]]:
        """Close the polls that all of `receivers` answered, or that time ran out for; their needs are queued.

        Returns (number, blocks) of polls to ask again.
        """
        again: list[tuple[int, int]] = []
        for number, poll in list(self._polls.items()):
            if any(receiver not in poll.answers for receiver in receivers):
                if now < self._patience(poll):
                    continue
                if poll.tries < _TRIES:
                    poll.tries += 1
                    again.append((number, poll.blocks))
                    continue
            del self._polls[number]
            self._collect(number, poll)
        return again

    def next_timeout(self) -> float | None:
        """When a poll is to be asked again or given up; None without one."""
        return min((self._patience(poll) for poll in self._polls.values()), default=None)

    def take(self, *, heavy: bool) -> Need | None:
        """The next need: light ones first, in order of blocks; heavy ones only if asked for."""
        needs = (Need(block, missing, self._symbols[block]) for block, missing in self._queue.items())
        best = min((need for need in needs if heavy or not need.heavy), key=lambda n: (n.heavy, n.block), default=None)
        if best is not None:
            del self._queue[best.block]
            self._repaired[best.block] = self._number
        return best

    def _patience(self, poll: _Outstanding) -> float:
        """Until when to wait: longer each time, and by what answers have taken so far."""
        step = min(max(3 * self._delay, _LEAST_PATIENCE), _MOST_PATIENCE)
        return poll.asked + step * poll.tries * (poll.tries + 1) / 2

    def _collect(self, number: int, poll: _Outstanding) -> None:
        for told in poll.answers.values():
            for block, missing in told.items():
                # a report older than the last repair of a block does not know of that repair
                if missing and self._repaired[block] < number:
                    self._queue[block] = max(self._queue.get(block, 0), missing)
