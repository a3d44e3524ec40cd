"""Reasons, for operators: what happened, to whom, and what to type. Pure."""

from datetime import datetime

from shoal_model.messages import Party

_KEY = 8


def not_armed(node: str, attempt: Party, bound: Party | None) -> str:
    """A boot that nobody expected."""
    return (
        f"nobody expected {node} to boot{_speaks(bound)}. If you did: `shoal boot arm {node}`, or let in this very "
        f"boot with `shoal quarantine admit {node}`. If not, somebody at {attempt.address} says to be {node}: "
        f"`shoal quarantine reject {node}`"
    )


def replaced(node: str, bound: Party | None) -> str:
    """The key that spoke for a node comes back."""
    return (
        f"this key spoke for {node} before{_speaks(bound)}: two machines say to be {node}. If the one with this "
        f"key is right: `shoal quarantine admit {node}`; if not: `shoal quarantine reject {node}`"
    )


def replayed(node: str, boot: str, bound: Party | None) -> str:
    """A token comes with a second key."""
    return (
        f"the token of boot {boot} of {node} was used already, with another key{_speaks(bound)}: one of the two is "
        f"a thief. If it is the first: `shoal quarantine admit {node}`; if it is this one: "
        f"`shoal quarantine reject {node}`; if you cannot tell: `shoal boot arm {node}` and boot {node} again"
    )


def stolen(node: str, bound: Party, address: str) -> str:
    """A bound key is used elsewhere."""
    return (
        f"the key that speaks for {node} from {bound.address} was used from {address}: it was stolen, or {node} "
        f"changed its address. `shoal node revoke {node}`, `shoal boot arm {node}` and boot {node} again: it gets "
        f"a new key"
    )


def elsewhere(node: str, expected: str, address: str) -> str:
    """A token is used at another address than it is for."""
    return (
        f"the token of {node} is for {expected} and came from {address}: it was stolen, or something between "
        f"{node} and the head translates addresses. `shoal boot arm {node}` and boot {node} again"
    )


def expired(node: str, end: datetime, *, waits: bool) -> str:
    """A token is too old; `waits`: in quarantine, with the key that shows it."""
    if waits:
        return (
            f"the token of this boot was good until {end:%Y-%m-%d %H:%M:%S} UTC, and nobody expected {node} before. "
            f"This boot waits in quarantine: let it in with `shoal quarantine admit {node}`; if it is not {node}: "
            f"`shoal quarantine reject {node}`; if you cannot tell: `shoal boot arm {node}` and boot {node} again"
        )
    return (
        f"the token of this boot was good until {end:%H:%M:%S} UTC: the boot took too long, the clocks of the heads "
        f"differ, or somebody kept the token. `shoal boot arm {node}` and boot {node} again"
    )


def without_room(count: int) -> str:
    """More attempts than can wait."""
    return (
        f"{count} attempts with further keys found no room beside those that wait: reject what is not the node, and "
        f"the next ones come in here"
    )


def forged(node: str, address: str, problem: str) -> str:
    """A token that names a node is not genuine."""
    return (
        f"somebody at {address} says to be {node}, but {problem}. If it is {node}, auth does not know the key of its "
        f"boot file server (SHOAL_BOOT_KEYS): set it, `shoal boot arm {node}` and boot {node} again"
    )


def moved(node: str, mac: str, address: str) -> str:
    """A token says other things of a node than its record."""
    return (
        f"the token of this boot is for {mac} at {address}, and {node} is recorded with others by now. "
        f"`shoal boot arm {node}` and boot {node} again"
    )


def other_machine(node: str, mac: str) -> str:
    """A node is another machine by now."""
    return (
        f"{node} is recorded with the MAC {mac}: this is another machine, which was replaced. If it is not: "
        f"`shoal node set {node} mac=…`"
    )


def removed(node: str) -> str:
    """A node is no more."""
    return f"there is no node {node} any more"


def revoked(node: str) -> str:
    """A key was revoked."""
    return f"the key was revoked: it speaks for {node} no more"


def rejected(node: str) -> str:
    """An operator refused the key."""
    return f"an operator has refused this key: it does not speak for {node}"


def _speaks(bound: Party | None) -> str:
    if bound is None:
        return ""
    return f", and {bound.key[:_KEY]}… at {bound.address} has spoken for it since {bound.at:%Y-%m-%d %H:%M:%S} UTC"
