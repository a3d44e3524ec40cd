"""The records as one value: a `Snapshot`, and what reads and replaces single records of it. Pure."""

from collections.abc import Iterator, Mapping
from typing import TypeVar

from shoal_model.records import GLOBAL_NAME, SECTIONS, Cluster, Global, ImageRelease, Kind, Record, RootfsRelease
from shoal_model.resolve import Snapshot

Key = tuple[Kind, str]
"""A record: its kind and name."""
Updates = Mapping[Key, Record | None]
"""Records as they shall be; None where one is to be gone."""

R = TypeVar("R", bound=Record)

EMPTY = Snapshot(cluster=Cluster(), image_releases={}, rootfs_releases={})


def section(snapshot: Snapshot, kind: Kind) -> Mapping[str, Record]:
    """All records of a kind by name."""
    match kind:
        case Kind.GLOBAL:
            return {GLOBAL_NAME: snapshot.cluster.global_}
        case Kind.IMAGE_RELEASE:
            return snapshot.image_releases
        case Kind.ROOTFS_RELEASE:
            return snapshot.rootfs_releases
        case _:
            records: Mapping[str, Record] = getattr(snapshot.cluster, SECTIONS[kind])
            return records


def get(snapshot: Snapshot, key: Key) -> Record | None:
    """One record; None if there is none. The global template is always there."""
    return section(snapshot, key[0]).get(key[1])


def configured(snapshot: Snapshot) -> Iterator[Key]:
    """The records that operators write, the global template included."""
    for kind in SECTIONS:
        for name in section(snapshot, kind):
            yield kind, name
    yield Kind.GLOBAL, GLOBAL_NAME


def replace(snapshot: Snapshot, updates: Updates) -> Snapshot:
    """The snapshot with these records put or removed. The one given stays as it is."""
    touched: dict[Kind, dict[str, Record]] = {}
    for (kind, name), record in updates.items():
        records = touched.setdefault(kind, dict(section(snapshot, kind)))
        if record is None:
            records.pop(name, None)
        else:
            records[name] = record
    cluster = snapshot.cluster
    fields: dict[str, object] = {SECTIONS[kind]: records for kind, records in touched.items() if kind in SECTIONS}
    if Kind.GLOBAL in touched:
        fields["global_"] = touched[Kind.GLOBAL].get(GLOBAL_NAME, Global())
    return Snapshot(
        cluster=cluster.model_copy(update=fields),
        image_releases=_of(touched.get(Kind.IMAGE_RELEASE, snapshot.image_releases), ImageRelease),
        rootfs_releases=_of(touched.get(Kind.ROOTFS_RELEASE, snapshot.rootfs_releases), RootfsRelease),
    )


def _of(records: Mapping[str, Record], kind: type[R]) -> Mapping[str, R]:
    return {name: record for name, record in records.items() if isinstance(record, kind)}
