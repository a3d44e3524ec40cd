"""The part of a nats-server's configuration that says who is who. Pure text.

Three accounts: SYS, where auth asks the server for its connections and cuts them; AUTH, where auth answers the server's
question whether to let somebody in; CLUSTER, where everybody else is. Services and operators stand here with their
public keys, so that they connect while auth is down; whoever stands not here is asked about: the nodes.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from shoal_model import permissions, subjects
from shoal_model.permissions import Permissions, Responses
from shoal_model.subjects import Service

CLUSTER = "CLUSTER"
"""The account that auth binds nodes into: the audience (`aud`) of their JWTs."""
TIMEOUT = 15
"""Seconds for TLS and for proving oneself: in a boot storm thousands wait for their turn."""

_INBOX = f"{subjects.inbox(Service.AUTH)}.>"
_CALLOUT = Permissions(
    publish=(), subscribe=("$SYS.REQ.USER.AUTH", _INBOX), responses=Responses(max=1, expires=TIMEOUT)
)
_SYSTEM = Permissions(
    publish=("$SYS.REQ.SERVER.*.KICK", "$SYS.REQ.SERVER.PING.CONNZ"), subscribe=(_INBOX,), responses=None
)
_NOTHING = ">"


@dataclass(frozen=True)
class PublicKeys:
    """Public keys: `U…` of each principal in `users` (see `permissions.PRINCIPALS`), of auth in AUTH (`callout`) and in
    SYS (`system`); `A…` of the account that signs what auth hands out (`issuer`).

    `secrets` are not public: the secret of each bucket's write subject, which its writer alone may know. They stand in
    the configuration, so nobody else may read that.
    """

    users: Mapping[str, str]
    callout: str
    system: str
    issuer: str
    secrets: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True)
class Tls:
    """The server's certificate and its key, as files."""

    certificate: Path
    key: Path


def identity(keys: PublicKeys, tls: Tls | None = None) -> str:
    """Accounts, users, permissions, the callout and TLS, to be included in a configuration with `jetstream` and
    `listen`. Raises KeyError for a principal without permissions.
    """
    users = [user(key, permissions.of(principal, keys.secrets)) for principal, key in keys.users.items()]
    lines = [
        "accounts {",
        *_account("SYS", [user(keys.system, _SYSTEM)]),
        *_account("AUTH", [user(keys.callout, _CALLOUT)]),
        *_account(CLUSTER, users, "jetstream: enabled"),
        "}",
        "system_account: SYS",
        "authorization {",
        f"  timeout: {TIMEOUT}",
        "  auth_callout {",
        f"    issuer: {keys.issuer}",
        "    account: AUTH",
        f"    auth_users: [{keys.callout}]",
        "    allowed_accounts: [AUTH]",
        "  }",
        "}",
    ]
    if tls is not None:
        lines += [
            "tls {",
            f"  cert_file: {_quoted(tls.certificate)}",
            f"  key_file: {_quoted(tls.key)}",
            f"  timeout: {TIMEOUT}",
            "}",
        ]
    return "\n".join(lines) + "\n"


def user(key: str, granted: Permissions) -> str:
    """A user with an nkey, as one line."""
    return f"{{ nkey: {key}, permissions: {_permissions(granted)} }}"


def _account(name: str, users: Iterable[str], *settings: str) -> Iterable[str]:
    yield f"  {name} {{"
    yield from (f"    {setting}" for setting in settings)
    yield "    users: ["
    yield from (f"      {line}" for line in users)
    yield "    ]"
    yield "  }"


def _permissions(granted: Permissions) -> str:
    publish = f"publish: {_allowed(granted.publish)}"
    subscribe = f"subscribe: {_allowed(granted.subscribe)}"
    answers = granted.responses
    responses = f', allow_responses: {{ max: {answers.max}, expires: "{answers.expires}s" }}' if answers else ""
    return f"{{ {publish}, {subscribe}{responses} }}"


def _allowed(patterns: Iterable[str]) -> str:
    """An empty list would allow everything."""
    listed = list(patterns)
    return f"{{ allow: {json.dumps(listed)} }}" if listed else f"{{ deny: {json.dumps([_NOTHING])} }}"


def _quoted(path: Path) -> str:
    """A path is quoted, or `./x` would be read as a number."""
    return json.dumps(str(path))
