"""Which attempt an operator means. Pure."""

from shoal_auth.identity import Identity
from shoal_bus.errors import Conflict, NotFound
from shoal_model.messages import Quarantined, QuarantineState

_SHOWN = 12


def chosen(identity: Identity, key: str) -> Quarantined:
    """The attempt whose key begins so; without one, the one that waits. Raises NotFound, or Conflict naming several."""
    node = identity.node
    if key:
        found = [entry for entry in identity.held if entry.attempt.key.startswith(key)]
    else:
        found = [entry for entry in identity.held if entry.state is QuarantineState.WAITING]
    if not found:
        raise NotFound(
            f"{node} has no attempt in quarantine with a key that begins with {key}"
            if key
            else f"no attempt to be {node} waits for a decision"
        )
    if len(found) > 1:
        parties = ", ".join(f"{entry.attempt.key[:_SHOWN]} from {entry.attempt.address}" for entry in found)
        raise Conflict(f"{len(found)} attempts to be {node} are meant: name the beginning of one's key ({parties})")
    return found[0]
