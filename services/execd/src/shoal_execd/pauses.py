"""Pauses between tries: they grow, and no two nodes keep the same time."""

import random
from dataclasses import dataclass, field


@dataclass
class Pauses:
    """Seconds to wait before each next try: doubling from `first` to `longest`, each by chance between half and whole.

    A thousand nodes that lost their head at the same moment do not come back at the same moment.
    """

    first: float = 1.0
    longest: float = 60.0
    chance: random.Random = field(default_factory=random.Random)
    _tries: int = 0

    def next(self) -> float:
        """The next pause, in seconds."""
        whole = min(self.first * (1 << min(self._tries, 30)), self.longest)
        self._tries += 1
        return whole * (0.5 + self.chance.random() / 2)
