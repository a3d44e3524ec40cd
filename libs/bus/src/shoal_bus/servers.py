"""Addresses of NATS servers: which are some, and how to tell of one without its password. Standard library alone."""

import re

_SERVER = re.compile(r"(?:nats|tls)://(?:[^\s/@]+@)?(?:\[[0-9a-fA-F:.]+\]|[a-zA-Z0-9._-]+)(?::[0-9]{1,5})?")
_SCHEME = re.compile(r"(?:[a-z]+://)?")


def checked(text: str) -> str:
    """`nats://host:4222`, `tls://user:password@host`: the address as given. ValueError, fit to be shown, for others."""
    if not _SERVER.fullmatch(text):
        raise ValueError(f"expected nats://host:port, got {without_secrets(text)!r}")
    return text


def without_secrets(text: str) -> str:
    """An address as it may be shown, or what was meant to be one: without user, password and token."""
    scheme = _SCHEME.match(text)
    start = scheme.end() if scheme else 0
    host = text[start:].rpartition("@")[2]
    if not _SERVER.fullmatch(text):
        name, colon, port = host.partition(":")  # behind the colon there may be a password that was cut in two
        host = f"{name}:…" if colon and not port.isdecimal() else host
    return text[:start] + host
