"""The steps that execd takes once the files are written: one function for each verb of `NodeOptions.actions`."""

import os
import re
import socket
from collections.abc import Callable, Mapping
from pathlib import Path

from shoal_execd.node_options import Action
from shoal_execd.places import inside
from shoal_execd.processes import run

_HOST_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,62}[A-Za-z0-9])?")
_KEYGEN = 60.0
_UDEV = 30.0


class ActionFailed(Exception):
    """A step could not be taken; the text names it."""


def directory(root: Path, path: str, mode: str, uid: str, gid: str) -> None:
    """`directory PATH MODE UID GID`: make a directory if it is missing, and give it mode (octal) and owner."""
    folder = inside(root, path, follow=True)
    folder.mkdir(parents=True, exist_ok=True)
    os.chown(folder, int(uid), int(gid))
    os.chmod(folder, int(mode, 8))


def hostname(root: Path, name: str) -> None:
    """`hostname NAME`: name the running system, so that scripts before systemd see it already."""
    if not _HOST_NAME.fullmatch(name):
        raise ActionFailed(f"{name!r} is not a host name")
    socket.sethostname(name)


def ssh_host_keys(root: Path) -> None:
    """`ssh-host-keys`: make an ed25519 host key if there is none. An image has no keys: all nodes would share them."""
    folder = inside(root, "/etc/ssh", follow=True)
    key = folder / "ssh_host_ed25519_key"
    if key.exists():
        return
    if not folder.is_dir():
        raise ActionFailed("there is no /etc/ssh: the image has no SSH server")
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(key)], timeout=_KEYGEN)


def network_links(root: Path) -> None:
    """`network-links`: have udev name the interfaces as the .link files say that were written just now."""
    run(["udevadm", "control", "--reload"], timeout=_UDEV)
    run(["udevadm", "trigger", "--action=add", "--subsystem-match=net"], timeout=_UDEV)
    run(["udevadm", "settle", f"--timeout={_UDEV:.0f}"], timeout=2 * _UDEV)


VERBS: Mapping[str, Callable[..., None]] = {
    "directory": directory,
    "hostname": hostname,
    "ssh-host-keys": ssh_host_keys,
    "network-links": network_links,
}


def perform(action: Action, root: Path, verbs: Mapping[str, Callable[..., None]] = VERBS) -> None:
    """Take a step. Raises ActionFailed, whatever went wrong."""
    function = verbs.get(action.verb)
    if function is None:
        raise ActionFailed(f"{action.verb}: this execd does not know the verb; it knows {', '.join(sorted(verbs))}")
    try:
        function(root, *action.arguments)
    except Exception as error:
        raise ActionFailed(f"{' '.join((action.verb, *action.arguments))}: {error}") from error
