"""Ed25519 keys, written as NATS writes them (nkeys): a seed `SU…` that is secret, a public key `U…` that is not.

The encoding is base32 of one or two prefix bytes, the 32 bytes of the key, and a CRC-16: nats-io/nkeys.
"""

import base64
import binascii
import os
import stat
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Self

import nacl.exceptions
from nacl.signing import SigningKey, VerifyKey

_SEED_PREFIX = 18 << 3
_LENGTH = 32
_MAX_TEXT = 64
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


class KeyProblem(ValueError):
    """This is no key, or no file to keep one in; the text says what is wrong, and never the key."""


class Role(IntEnum):
    """What a key is for, as its prefix byte says."""

    USER = 20 << 3
    ACCOUNT = 0
    SERVER = 13 << 3


@dataclass(frozen=True)
class Key:
    """A key pair: `public` is `U…` (or `A…`), `seed` what it is made from. Its repr does not show the seed."""

    public: str
    seed: str = field(repr=False)
    _signing: SigningKey = field(repr=False, compare=False)

    @classmethod
    def new(cls, role: Role = Role.USER) -> Self:
        """A key that nobody had before."""
        return cls._of(os.urandom(_LENGTH), role)

    @classmethod
    def from_seed(cls, seed: str) -> Self:
        """The key with this seed. Raises KeyProblem."""
        raw = _decoded(seed, _LENGTH + 2)
        if raw[0] & 0xF8 != _SEED_PREFIX:
            raise KeyProblem("this is no seed: a seed begins with S")
        try:
            role = Role(((raw[0] & 7) << 5) | ((raw[1] & 0xF8) >> 3))
        except ValueError:
            raise KeyProblem("this seed is for another kind of key than a user, an account or a server") from None
        return cls._of(raw[2:], role)

    @classmethod
    def read(cls, path: Path) -> Self:
        """The key in a file of ours (or root's) that nobody else may read. Raises KeyProblem, naming the file."""
        try:
            with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), encoding="ascii") as file:  # a pipe must not hold us
                status = os.fstat(file.fileno())
                text = file.read(_MAX_TEXT * 4) if stat.S_ISREG(status.st_mode) else ""
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "this is no text"
            raise KeyProblem(f"cannot read the key {path}: {reason}") from None
        if not stat.S_ISREG(status.st_mode):
            raise KeyProblem(f"cannot read the key {path}: this is no file")
        if status.st_uid not in (0, os.geteuid()):
            raise KeyProblem(f"the key {path} belongs to somebody else (user id {status.st_uid}), who can change it")
        if status.st_mode & _OTHERS:
            raise KeyProblem(f"the key {path} may be read by others: `chmod 600 {path}`, and consider making a new one")
        try:
            return cls.from_seed(text.strip())
        except KeyProblem as error:
            raise KeyProblem(f"{path}: {error}") from None

    def sign(self, data: bytes) -> bytes:
        """64 bytes that prove we have the key."""
        return self._signing.sign(data).signature

    def write(self, path: Path) -> None:
        """Keep the seed in a new file, for its owner alone. Raises FileExistsError, OSError."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w", encoding="ascii") as file:
            file.write(f"{self.seed}\n")
            file.flush()
            os.fsync(file.fileno())

    @classmethod
    def _of(cls, raw: bytes, role: Role) -> Self:
        signing = SigningKey(raw)
        head = bytes([_SEED_PREFIX | role >> 5, (role & 0x1F) << 3])
        return cls(_encoded(bytes([role]) + bytes(signing.verify_key)), _encoded(head + raw), signing)


def verify(public: str, data: bytes, signature: bytes) -> bool:
    """Whether `signature` over `data` was made with the key of `public`; False for what is no key at all."""
    try:
        VerifyKey(raw_public(public)).verify(data, signature)
    except (KeyProblem, ValueError, nacl.exceptions.CryptoError):
        return False
    return True


def raw_public(public: str) -> bytes:
    """The 32 bytes of a public key in its text form. Raises KeyProblem."""
    raw = _decoded(public, _LENGTH + 1)
    if raw[0] not in tuple(Role):
        raise KeyProblem(f"this is no public key of a user, an account or a server: {public[:_MAX_TEXT]!r}")
    return raw[1:]


def is_public(text: str) -> bool:
    """Whether this is a public key in its text form."""
    try:
        raw_public(text)
    except KeyProblem:
        return False
    return True


def _encoded(data: bytes) -> str:
    checked = data + binascii.crc_hqx(data, 0).to_bytes(2, "little")
    return base64.b32encode(checked).decode().rstrip("=")


def _decoded(text: str, length: int) -> bytes:
    if len(text) > _MAX_TEXT:
        raise KeyProblem(f"a key has at most {_MAX_TEXT} characters, this has {len(text)}")
    try:
        raw = base64.b32decode(text + "=" * (-len(text) % 8))
    except (binascii.Error, ValueError):
        raise KeyProblem("a key is written in base32: A-Z and 2-7") from None
    data, checksum = raw[:-2], raw[-2:]
    if len(data) != length or binascii.crc_hqx(data, 0).to_bytes(2, "little") != checksum:
        raise KeyProblem("this key is damaged: its length or checksum is wrong")
    if _encoded(data) != text:
        raise KeyProblem("this key is not written as keys are")
    return data
