"""What some fields of records may hold, checked before it reaches a node. Standard library alone."""

import base64
import binascii
import re
from itertools import pairwise

_LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_LONGEST_DOMAIN = 253
_KEY_TYPE = re.compile(r"[a-z0-9][a-z0-9@.-]*")
_KERNEL_WORD = re.compile(r'(?:[^\s"]|"[^"]*(?:"|$))+')
_SSHD_WORD = re.compile(r'(?:[^\s"]|"(?:\\.|[^"\\])*(?:"|$))+')
"""Both keep together what double quotes enclose; sshd knows a quote with a backslash before it."""
_SHOWN = 60
RESERVED_PARAMETERS = ("ip", "BOOTIF", "initrd")
"""Kernel parameters that the boot file server writes itself, beside all that begin with `shoal.`."""


def domain(text: str) -> str:
    """Return `text` if it is a DNS domain (RFC 1123, section 2.1), without a dot at its end; else ValueError."""
    if len(text) > _LONGEST_DOMAIN or not all(_LABEL.fullmatch(label) for label in text.split(".")):
        raise ValueError(
            f"{_short(text)} is not a domain: expected names of letters, digits and dashes with dots between them, "
            f"{_LONGEST_DOMAIN} characters at most, as in cluster.example.org"
        )
    return text


def public_key(text: str) -> str:
    """Return `text` if it is a line of an authorized_keys file (sshd(8)): options, type, key, comment; else ValueError.

    The key is a row of strings, each behind its length in four bytes, the first of them its type (RFC 4253, 6.6).
    """
    words = _SSHD_WORD.findall(text)
    for kind, encoded in list(pairwise(words))[:2]:
        if _KEY_TYPE.fullmatch(kind) and _parts(encoded)[:1] == [kind.encode()]:
            return text
    raise ValueError(
        f"{_short(text)} is not an OpenSSH public key: expected one whole line of a .pub file, "
        "as in `ssh-ed25519 AAAAC3Nz… ada@desk`"
    )


def kernel_parameters(text: str) -> str:
    """Return `text` unless it sets what the boot file server sets, where the last one would count; else ValueError."""
    for word in _KERNEL_WORD.findall(text):
        key = word.replace('"', "").partition("=")[0]
        if key in RESERVED_PARAMETERS or key.startswith("shoal."):
            raise ValueError(
                f"the kernel parameter {_short(word)} is one that Shoal sets for each node itself: leave out "
                f"shoal.*, {', '.join(RESERVED_PARAMETERS)}"
            )
    return text


def _parts(encoded: str) -> list[bytes]:
    """The strings in a key; none if it is not a whole row of them."""
    try:
        left = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        return []
    parts = []
    while left:
        length = int.from_bytes(left[:4], "big")
        if len(left) < 4 + length:
            return []
        parts.append(left[4 : 4 + length])
        left = left[4 + length :]
    return parts


def _short(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…")
