"""From what somebody wants to what is written: operations or a document → records → difference → steps. Pure."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from shoal_bus.api import Write
from shoal_bus.codec import pack
from shoal_bus.errors import Invalid
from shoal_model.messages import Action, FieldChange, Operation, RecordChange
from shoal_model.records import GLOBAL_NAME, SECTIONS, Cluster, Global, Kind, Node, Record, compact, record_key
from shoal_model.resolve import Snapshot
from shoal_registry import claims
from shoal_registry.document import parse_record, path
from shoal_registry.inventory import Key, Updates, configured, get, replace, section
from shoal_registry.problems import Problem, refuse, suggestion
from shoal_registry.validate import problems

MAX_WRITES = 900
"""Writes of one step: what the bucket takes as one batch, the head's included."""

_ORDER = (
    Kind.PROPERTY,
    Kind.NETWORK,
    Kind.IMAGE,
    Kind.ROOTFS,
    Kind.BOOT_CONFIG,
    Kind.TEMPLATE,
    Kind.GLOBAL,
    Kind.NODE,
    Kind.IMAGE_RELEASE,
    Kind.ROOTFS_RELEASE,
)
"""A record refers to those of the kinds before its own alone."""
_RELEASES = {Kind.IMAGE: Kind.IMAGE_RELEASE, Kind.ROOTFS: Kind.ROOTFS_RELEASE}


def updates_of_operations(snapshot: Snapshot, operations: Sequence[Operation], done: Collection[Key] = ()) -> Updates:
    """The records that the operations want. Those on records in `done` have been carried out and are passed over.

    Raises Invalid for an operation that makes no sense, and for the deletion of what is not there.
    """
    updates: dict[Key, Record | None] = {}
    found: list[Problem] = []
    for operation in operations:
        key = (operation.kind, operation.name)
        if key in done:
            continue
        if key in updates:
            found.append(Problem(path(*key), "the change names it twice", "keep one of the operations"))
        elif (problem := _senseless(snapshot, operation)) is not None:
            found.append(problem)
        elif operation.action is Action.DELETE:
            updates[key] = Global() if operation.kind is Kind.GLOBAL else None
        else:
            updates[key] = parse_record(operation.kind, operation.name, operation.record or {})
    if found:
        raise refuse(found)
    return updates


def _senseless(snapshot: Snapshot, operation: Operation) -> Problem | None:
    kind, name = operation.kind, operation.name
    where = path(kind, name)
    if kind not in SECTIONS and kind is not Kind.GLOBAL:
        return Problem(where, f"records of kind {kind} are not changed by hand", "image-builder publishes them")
    if kind is Kind.GLOBAL and name != GLOBAL_NAME:
        return Problem(where, "there is one global template", f"call it {GLOBAL_NAME!r}")
    if (operation.record is None) is (operation.action is Action.PUT):
        return Problem(where, "to put needs a record, to delete takes none")
    if operation.action is Action.DELETE and get(snapshot, (kind, name)) is None:
        return Problem(where, "there is no such record to delete", suggestion(name, section(snapshot, kind)))
    return None


def updates_of_document(snapshot: Snapshot, document: Cluster, sections: Collection[str], prune: bool) -> Updates:
    """The records that a document wants; with `prune`, those it does not name are gone. `sections` are the names at
    its top: a document that says nothing of `global` leaves the global template as it is, unless it prunes.
    """
    wanted = Snapshot(cluster=document, image_releases={}, rootfs_releases={})
    updates: dict[Key, Record | None] = {key: get(wanted, key) for key in configured(wanted)}
    if "global" not in sections and not prune:
        del updates[Kind.GLOBAL, GLOBAL_NAME]
    if prune:
        updates.update({key: None for key in configured(snapshot) if key not in updates})
    return updates


def settle(snapshot: Snapshot, updates: Updates) -> Updates:
    """What is really to be done: without what is so already, and with the releases of what goes."""
    real = {key: record for key, record in updates.items() if get(snapshot, key) != record}
    for (kind, name), record in list(real.items()):
        release = _RELEASES.get(kind)
        if release is not None and record is None and name in section(snapshot, release):
            real[release, name] = None
    return real


def check(snapshot: Snapshot, updates: Updates) -> Snapshot:
    """The snapshot as it will be. Raises Invalid with all that would be wrong with it."""
    after = replace(snapshot, updates)
    found = problems(after.cluster, _removed(updates))
    if found:
        raise refuse(found)
    return after


def _removed(updates: Updates) -> list[Key]:
    return [key for key, record in updates.items() if record is None]


# --- difference -------------------------------------------------------------------------------------------


def differences(snapshot: Snapshot, updates: Updates) -> list[RecordChange]:
    """What the updates do to each record, field by field, in the order in which records depend on one another."""
    return [_difference(key, get(snapshot, key), record) for key, record in in_order(snapshot, updates)]


def _difference(key: Key, before: Record | None, after: Record | None) -> RecordChange:
    old, new = _flat(before), _flat(after)
    fields = [
        FieldChange(field=field, before=old.get(field), after=new.get(field))
        for field in (*old, *(field for field in new if field not in old))
        if old.get(field) != new.get(field)
    ]
    return RecordChange(kind=key[0], name=key[1], what=what(before, after), fields=fields)


def what(before: object, after: object) -> str:
    """The word for what happened to a record: added, changed or removed."""
    if before is None:
        return "added"
    return "removed" if after is None else "changed"


def _flat(record: Record | None) -> dict[str, Any]:
    """A record's fields by dotted name; lists stay whole."""
    if record is None:
        return {}
    flat: dict[str, Any] = {}

    def lay(fields: Mapping[str, Any], start: str) -> None:
        for name, value in fields.items():
            if isinstance(value, Mapping):
                lay(value, f"{start}{name}.")
            elif start + name != "manifest.blocks":  # thousands of hashes that tell a reader nothing
                flat[start + name] = value

    lay(compact(record), "")
    return flat


# --- steps ------------------------------------------------------------------------------------------------


def in_order(snapshot: Snapshot, updates: Updates) -> list[tuple[Key, Record | None]]:
    """Updates so that nearly every beginning of them is valid by itself: nodes that go (they free what they claim),
    then what is put, dependencies first, then what goes, dependencies last.
    """

    def place(item: tuple[Key, Record | None]) -> tuple[int, int, bool, str]:
        (kind, name), record = item
        rank = _ORDER.index(kind)
        if record is not None:
            return 1, rank, get(snapshot, (kind, name)) is None, name
        return (0, 0, False, name) if kind is Kind.NODE else (2, -rank, False, name)

    return sorted(updates.items(), key=place)


def steps(snapshot: Snapshot, updates: Updates, most: int = MAX_WRITES) -> list[Updates]:
    """The updates in as few batches as hold them, each valid by itself after the ones before it.

    Raises Invalid where the change is too large for one batch and no such cut exists.
    """
    cut = list(_batches(snapshot, updates, most - 1))
    state = snapshot
    for index, batch in enumerate(cut[:-1]):
        state = replace(state, batch)
        rest = [item for later in cut[index + 1 :] for item in later.items()]
        if all(_is_new_node(snapshot, key, record) for key, record in rest):
            break  # a valid configuration without some of its nodes is valid too, so each further cut is
        found = problems(state.cluster)
        if found:
            advice = f"the change is too large for one batch ({most} writes), and a part of it is not valid by itself: "
            raise Invalid(f"{advice}{refuse(found)}; make it in several changes")
    return cut


def _is_new_node(snapshot: Snapshot, key: Key, record: Record | None) -> bool:
    return key[0] is Kind.NODE and record is not None and get(snapshot, key) is None


def _batches(snapshot: Snapshot, updates: Updates, most: int) -> Iterator[Updates]:
    batch: dict[Key, Record | None] = {}
    weight = 0
    for key, record in in_order(snapshot, updates):
        needs = 1 + len({*_claims(key, get(snapshot, key)), *_claims(key, record)})
        if needs > most:
            raise Invalid(f"{path(*key)}: one record may hold {most - 1} claims at most, not {needs - 1}")
        if weight + needs > most:
            yield batch
            batch, weight = {}, 0
        batch[key] = record
        weight += needs
    if batch:
        yield batch


# --- writes -----------------------------------------------------------------------------------------------


def writes(snapshot: Snapshot, step: Updates, revisions: Mapping[str, int]) -> list[Write]:
    """The records and claims of a step, each expected at the revision it has in `revisions` (0: it never was).

    The head is not among them: see `head`.
    """
    values: dict[str, bytes | None] = {}
    held: dict[str, bytes] = {}
    for key, record in step.items():
        values[record_key(*key)] = None if record is None else pack(compact(record))
        values.update(dict.fromkeys(_claims(key, get(snapshot, key))))
        held.update(dict.fromkeys(_claims(key, record), claims.value(key[1])))
    for key, record in step.items():
        # A claim that a node keeps is not written anew.
        for claim in {*_claims(key, get(snapshot, key))} & {*_claims(key, record)}:
            values.pop(claim, None)
            held.pop(claim, None)
    return [Write(key, value, revisions.get(key, 0)) for key, value in {**values, **held}.items()]


def _claims(key: Key, record: Record | None) -> list[str]:
    return claims.of(key[1], record) if isinstance(record, Node) else []
