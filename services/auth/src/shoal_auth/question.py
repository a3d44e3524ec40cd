"""What the server asks: may this connection be let in? From the JWT on the wire to a proven key. Pure."""

import base64
import binascii
import ipaddress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ValidationError

from shoal_auth import jwt
from shoal_identity.keys import is_public, verify

SUBJECT = "$SYS.REQ.USER.AUTH"
_AUDIENCE = "nats-authorization-request"
_SERVER = "N"


class BadQuestion(ValueError):
    """No server asks so: there is nobody to answer."""


class Unproven(ValueError):
    """The connection proves no key; the text says what it lacks, for the server's log."""


@dataclass(frozen=True)
class Attempt:
    """Somebody who has proven to have `key`, and connects from `address` (IPv4)."""

    key: str
    address: str
    at: datetime
    token: str = field(default="", repr=False)


class _Server(BaseModel):
    id: str


class _Client(BaseModel):
    host: str = ""
    nonce: str = ""


class _Options(BaseModel):
    nkey: str = ""
    sig: str = ""
    auth_token: str = ""
    jwt: str = ""


class Question(BaseModel):
    """An authorization request, as far as it matters to us. `user_nkey` is the user that the answer is to be about."""

    server_id: _Server
    user_nkey: str
    client_info: _Client
    connect_opts: _Options

    @property
    def server(self) -> str:
        """The id of the server that asks."""
        return self.server_id.id


def read(body: bytes) -> Question:
    """The question in a message. Raises BadQuestion."""
    try:
        claims = jwt.decode(body, _SERVER)
        question = Question.model_validate(claims.get("nats"))
    except jwt.BadJwt as error:
        raise BadQuestion(str(error)) from None
    except ValidationError as error:
        raise BadQuestion(_first(error.errors(include_url=False, include_context=False, include_input=False))) from None
    if claims.get("aud") != _AUDIENCE or claims["iss"] != question.server:
        raise BadQuestion("it is no authorization request of the server that signed it")
    return question


def proven(question: Question, at: datetime) -> Attempt:
    """The attempt in a question: its key is proven, all else it says is not. Raises Unproven."""
    client, options = question.client_info, question.connect_opts
    if options.jwt:
        raise Unproven("this cluster takes no JWTs of clients")
    if not options.nkey or not options.sig:
        raise Unproven("it shows no key: connect with an nkey")
    if not client.nonce:
        raise Unproven("the server gave no nonce to sign: it needs a user with an nkey in its configuration")
    if not options.nkey.startswith("U") or not is_public(options.nkey):
        raise Unproven("its nkey is no user's key")
    if not verify(options.nkey, client.nonce.encode(), _signature(options.sig)):
        raise Unproven("its signature does not prove the key")
    return Attempt(options.nkey, _ipv4(client.host), at, options.auth_token)


def _signature(text: str) -> bytes:
    """Of either alphabet, with or without padding; b"" for what is no base64."""
    plain = text.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError):
        return b""


def _ipv4(host: str) -> str:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        raise Unproven("the server does not know its address") from None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else address
    if mapped is None:
        raise Unproven("it comes over IPv6, and nodes have IPv4 addresses: name the head by its IPv4 address")
    return str(mapped)


def _first(errors: list[Any]) -> str:
    return f"{'.'.join(map(str, errors[0]['loc']))}: {errors[0]['msg']}"
