"""Node sets as ClusterShell writes them: `n[001-100]`, `n1,n2`, `@group`, `!`, `&`, `^`.

The groups are the cluster's own: `@*` is every node, `@NAME` the nodes of template NAME.
"""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence

from ClusterShell.NodeSet import NodeSet, NodeSetException
from ClusterShell.NodeUtils import GroupResolver, GroupResolverError, GroupSource, GroupSourceError

from shoal_model import names

_MAX_NODES = 1_000_000


class NodeSetError(ValueError):
    """The text is no set of nodes; the message says what is wrong with it."""


def expand(text: str, groups: Mapping[str, Iterable[str]] | None = None) -> list[str]:
    """The nodes of a set, in its order. `groups` maps a template to its nodes, `*` to all; needed if `text` has `@`.

    Raises NodeSetError for a malformed or empty set, an unknown group, or what cannot be a node's name.
    """
    _check_size(text)
    known = {name: ",".join(members) for name, members in (groups or {}).items()}
    resolver = GroupResolver(GroupSource("shoal", groups=known, allgroups=known.get("*")))
    for group in re.findall(r"@([\w.-]+)", text):
        if group not in known:
            raise NodeSetError(f"there is no template {group!r} that @{group} could stand for")
    try:
        nodes = list(NodeSet(text, resolver=resolver))
    except (NodeSetException, GroupResolverError, GroupSourceError) as error:
        raise NodeSetError(f"{text!r} is not a set of nodes: {error}") from error
    if not nodes:
        raise NodeSetError(f"the set {text!r} holds no node")
    try:
        return [names.name(node) for node in nodes]
    except ValueError as error:
        raise NodeSetError(str(error)) from error


def fold(nodes: Iterable[str]) -> str:
    """Nodes as a set, as short as it goes: `n[001-003,007]`."""
    return str(NodeSet.fromlist(list(nodes), resolver=GroupResolver(None)))


def hint(strangers: Sequence[str], known: Iterable[str]) -> str:
    """What to tell whoever named nodes that do not exist: the one that was meant, if there is one much like it."""
    if len(strangers) == 1:
        # Another node of a row is always much alike, and never meant: a number counts by its value.
        number = _number(strangers[0])
        alike = difflib.get_close_matches(strangers[0], [name for name in known if _number(name) == number], n=1)
        if alike:
            return f"did you mean {alike[0]}?"
    return "`shoal node list` shows those that are"


def _number(name: str) -> list[int]:
    return [int(digits[:20]) for digits in re.findall(r"[0-9]+", name)]


def _check_size(text: str) -> None:
    """Refuse ranges that would not fit into memory before ClusterShell expands them."""
    total = 1
    for first, last in re.findall(r"([0-9]+)-([0-9]+)", text):
        total *= max(1, int(last[:12]) - int(first[:12]) + 1) if len(last) <= 12 else _MAX_NODES + 1
        if total > _MAX_NODES:
            raise NodeSetError(f"{text!r} names more than {_MAX_NODES} nodes")
