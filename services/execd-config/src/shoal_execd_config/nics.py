"""What a node's interfaces are called: the one it boots from `boot0`, each other after its network. Pure."""

import hashlib
from collections.abc import Sequence

from shoal_model.records import Nic

BOOT = "boot0"
_LONGEST = 15
"""Characters of an interface name (IFNAMSIZ less one)."""
_TAKEN = (BOOT, "lo", "all", "default")
_HASH = 4


def interface_names(nics: Sequence[Nic]) -> tuple[str, ...]:
    """The interface name of each NIC, in their order, each once: `storage`, and `storage-2` for a second one there."""
    names: list[str] = []
    for nic in nics:
        count = 1
        name = _shortened(nic.network, "")
        while name in _TAKEN or name in names:
            count += 1
            name = _shortened(nic.network, f"-{count}")
        names.append(name)
    return tuple(names)


def _shortened(network: str, ending: str) -> str:
    """The network's name with an ending, cut to what an interface may be called and still told apart by a hash."""
    if len(network) + len(ending) <= _LONGEST:
        return network + ending
    mark = hashlib.sha256(network.encode()).hexdigest()[:_HASH]
    return f"{network[: _LONGEST - _HASH - 1 - len(ending)]}-{mark}{ending}"
