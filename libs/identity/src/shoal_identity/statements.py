"""What a node says with its key, over a connection that proves less: whoever was let in may still hold one."""

from shoal_identity.keys import Key, verify

_REBOOT = b"shoal reboot\0"


def say_reboot(node: str, boot: str, key: Key) -> bytes:
    """The signature (64 bytes) with which `key` says that boot `boot` of `node` ends, and another one begins."""
    return key.sign(_reboot(node, boot))


def says_reboot(node: str, boot: str, key: str, signature: bytes) -> bool:
    """Whether the owner of `key` (`U…`) says so."""
    return verify(key, _reboot(node, boot), signature)


def _reboot(node: str, boot: str) -> bytes:
    return _REBOOT + node.encode() + b"\0" + boot.encode()
