"""From the tree that packages left behind to the tree that a module is: what belongs to the machine that built it,
or is made anew on every node, is taken out, and what must never be in an image stops the build.
"""

import fnmatch
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import IO

from shoal_image_builder.layers.entry import Entry, LayerError, Type, parents
from shoal_image_builder.layers.layer import file_source
from shoal_image_builder.layers.tar import Source
from shoal_image_builder.modules.recipe import Accounts, Recipe

# A pattern that ends in `/` means directories: they go unless something in them stays. `*` matches `/` too.
DROP = (
    *("dev/*", "dev/*/", "proc/*", "proc/*/", "run/*", "run/*/", "sys/*", "sys/*/", "tmp/*", "tmp/*/"),
    *("boot/initrd.img-*", "usr/sbin/policy-rc.d"),
    *("etc/apt/sources.list", "etc/apt/sources.list.d/*", "etc/apt/apt.conf.d/99mmdebstrap"),
    *("etc/dpkg/dpkg.cfg.d/99mmdebstrap", "etc/.pwd.lock", "etc/passwd-", "etc/group-", "etc/shadow-", "etc/gshadow-"),
    *("etc/subuid-", "etc/subgid-", "etc/adjtime", "etc/hostname", "etc/machine-id", "etc/resolv.conf"),
    *("etc/mailname", "etc/mdadm/mdadm.conf", "etc/udev/rules.d/70-persistent-*"),
    *("etc/munge/munge.key", "etc/pacemaker/authkey", "etc/corosync/authkey", "etc/ssh/ssh_host_*"),
    *("etc/ssl/certs/ssl-cert-snakeoil.pem", "etc/ssl/private/ssl-cert-snakeoil.key"),
    *("root/.bash_history", "root/.cache/*", "root/.ssh/", "usr/share/mime/mime.cache"),
    *("var/cache/apt/*", "var/cache/debconf/*-old", "var/cache/ldconfig/aux-cache", "var/cache/man/*"),
    *("var/lib/apt/lists/*", "var/lib/dbus/machine-id", "var/lib/dpkg/*-old", "var/lib/dpkg/lock*"),
    *("var/lib/dpkg/triggers/Lock", "var/lib/systemd/credential.secret", "var/lib/systemd/random-seed"),
    *("var/lib/ucf/cache/*", "var/log/*", "var/log/journal/", "var/backups/*"),
)
MACHINE_ID = "etc/machine-id"
_SECRET_SCAN = re.compile(r"(?:etc|root|home|srv|var)/")
_SECRET_SCAN_BYTES = 256 << 10
_PRIVATE_KEY = re.compile(rb"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY-----")
_ALLOWED_XATTRS = re.compile(r"security\.capability|user\..+")
_STATIC_IDS = frozenset([*range(100), 65534])  # given out by base-passwd, the same on every Debian


def scrub(sources: Sequence[Source], recipe: Recipe, accounts: Accounts) -> list[Source]:
    """The module's tree from the one that its packages left. LayerError if it holds what no image may hold."""
    tree = {source.entry.path: source for source in without(sources, (*DROP, *recipe.drop), recipe.keep)}
    tree |= {source.entry.path: source for source in _additions(recipe)}
    for path in list(tree):
        for parent in parents(path):
            tree.setdefault(parent, Source(Entry(parent, Type.DIRECTORY, 0o755)))
    finished = [_normal(tree[path], recipe.epoch) for path in sorted(tree)]
    check(finished, accounts)
    return finished


def without(sources: Sequence[Source], drop: Sequence[str], keep: Sequence[str]) -> list[Source]:
    """Leave out what matches `drop` and not `keep`; directories as `DROP` says."""
    files = _matcher([pattern for pattern in drop if not pattern.endswith("/")])
    folders = _matcher([pattern[:-1] for pattern in drop if pattern.endswith("/")])
    stays = _matcher(keep)
    doomed: set[str] = set()
    for source in sources:
        path = source.entry.path
        matches = folders if source.entry.type is Type.DIRECTORY else files
        if (matches.match(path) or any(parent in doomed for parent in parents(path))) and not stays.match(path):
            doomed.add(path)
    needed = {parent for source in sources if source.entry.path not in doomed for parent in parents(source.entry.path)}
    return [source for source in sources if source.entry.path not in doomed or source.entry.path in needed]


def check(tree: Sequence[Source], accounts: Accounts) -> None:
    """The gates. LayerError names the first thing that may not be in a module."""
    kinds = {source.entry.path: source.entry.type for source in tree}
    owners = _known_ids(accounts)
    for source in tree:
        entry = source.entry
        for parent in parents(entry.path):
            if kinds.get(parent) is not Type.DIRECTORY:
                raise LayerError(f"{entry.path}: {parent} above it is no directory of the tree")
        if entry.path.rpartition("/")[2].startswith(".wh."):
            raise LayerError(f"{entry.path}: a module cannot take files away")
        for number, known in ((entry.uid, owners[0]), (entry.gid, owners[1])):
            if number not in known:
                raise LayerError(f"{entry.path}: owner {entry.uid}:{entry.gid} is not in recipes/accounts.yaml")
        for name, _ in entry.xattrs:
            if not _ALLOWED_XATTRS.fullmatch(name):
                raise LayerError(f"{entry.path}: extended attribute {name} cannot be kept in an image")
        _check_content(source, accounts)


def _check_content(source: Source, accounts: Accounts) -> None:
    entry = source.entry
    if source.open is None:
        return
    if entry.path.endswith(".pyc") and not int.from_bytes(_head(source.open(), 8)[4:8], "little") & 1:
        raise LayerError(f"{entry.path}: compiled for the time of its source, which images do not keep")
    if entry.path in ("etc/shadow", "etc/gshadow"):
        _check_passwords(entry.path, _head(source.open(), entry.size).decode())
    if entry.path in ("etc/passwd", "etc/group"):
        _check_accounts(entry.path, _head(source.open(), entry.size).decode(), accounts)
    if (
        _SECRET_SCAN.match(entry.path)
        and entry.size <= _SECRET_SCAN_BYTES
        and _PRIVATE_KEY.search(_head(source.open(), entry.size))
    ):
        raise LayerError(f"{entry.path} holds a private key, which would be the same on every node: drop it")


def _check_passwords(path: str, text: str) -> None:
    for line in text.splitlines():
        name, password, *_ = line.split(":")
        if password.strip("!*"):
            raise LayerError(f"{path}: {name} has a password; a module must not carry one")


def _check_accounts(path: str, text: str, accounts: Accounts) -> None:
    known: Mapping[str, int] = (
        {name: user.uid for name, user in accounts.users.items()}
        if path == "etc/passwd"
        else {name: group.gid for name, group in accounts.groups.items()}
    )
    for line in text.splitlines():
        name, _, number, *_ = line.split(":")
        static = int(number) in _STATIC_IDS or (path == "etc/group" and name == "users") or name == "_apt"
        if not static and known.get(name) != int(number):
            raise LayerError(f"{path}: {name} got the number {number} by chance; enter it in recipes/accounts.yaml")


def _known_ids(accounts: Accounts) -> tuple[frozenset[int], frozenset[int]]:
    users = _STATIC_IDS | {user.uid for user in accounts.users.values()}
    return users, _STATIC_IDS | {group.gid for group in accounts.groups.values()} | {100}


def _additions(recipe: Recipe) -> list[Source]:
    directories = [Source(Entry(path, Type.DIRECTORY, 0o755)) for path in recipe.directories]
    files = [file_source(Entry(path, Type.FILE, 0o644), text.encode()) for path, text in recipe.files.items()]
    # An empty file, not a missing one: without it systemd takes the boot for the first one and asks at the console.
    files.append(file_source(Entry(MACHINE_ID, Type.FILE, 0o444), b""))
    masks = {f"etc/systemd/system/{unit}": "/dev/null" for unit in recipe.mask}
    links = [Source(Entry(path, Type.SYMLINK, 0o777, target=target)) for path, target in (recipe.links | masks).items()]
    return [*directories, *files, *links]


def _normal(source: Source, epoch: int) -> Source:
    entry = source.entry
    fresh = entry.mtime == 0  # ours, not a package's
    return Source(replace(entry, mtime=epoch if fresh else min(entry.mtime, epoch)), source.open)


def _matcher(patterns: Iterable[str]) -> re.Pattern[str]:
    return re.compile("|".join(fnmatch.translate(pattern) for pattern in patterns) or r"(?!)")


def _head(content: IO[bytes], size: int) -> bytes:
    with content:
        return content.read(size)
