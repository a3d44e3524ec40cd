"""The server's question: who asks, and which key is proven."""

import base64
from datetime import UTC, datetime
from typing import Any

import pytest

from shoal_auth import answer, jwt, question
from shoal_auth.answer import Seal
from shoal_auth.question import BadQuestion, Question, Unproven
from shoal_identity.keys import Key, Role
from shoal_model import permissions

SERVER, NODE, ISSUER = Key.new(Role.SERVER), Key.new(), Key.new(Role.ACCOUNT)
AT = datetime(2026, 11, 20, 9, 0, tzinfo=UTC)
NONCE = "abcdefghijklmnop"
SIGNATURE = NODE.sign(NONCE.encode())


def claims(**changed: Any) -> dict[str, Any]:  # noqa: ANN401
    nats = {
        "server_id": {"id": SERVER.public},
        "user_nkey": Key.new().public,
        "client_info": {"host": "10.77.0.11", "id": 7, "nonce": NONCE},
        "connect_opts": {
            "nkey": NODE.public,
            "sig": base64.b64encode(SIGNATURE).decode(),
            "auth_token": "t",
            "name": "x",
        },
    }
    return {"aud": "nats-authorization-request", "nats": {**nats, **changed}}


def asked(client: dict[str, Any] | None = None, **options: Any) -> Question:  # noqa: ANN401
    plain = claims()["nats"]
    changed = {
        "client_info": {**plain["client_info"], **(client or {})},
        "connect_opts": {**plain["connect_opts"], **options},
    }
    return question.read(jwt.encode(claims(**changed), SERVER, 0).encode())


def test_a_key_that_signed_the_nonce_is_proven() -> None:
    attempt = question.proven(asked(), AT)
    assert (attempt.key, attempt.address, attempt.token, attempt.at) == (NODE.public, "10.77.0.11", "t", AT)
    assert "'t'" not in repr(attempt)


@pytest.mark.parametrize(
    "text",
    [
        base64.b64encode(SIGNATURE).decode(),
        base64.b64encode(SIGNATURE).decode().rstrip("="),
        base64.urlsafe_b64encode(SIGNATURE).decode(),
        base64.urlsafe_b64encode(SIGNATURE).decode().rstrip("="),
    ],
)
def test_a_signature_may_be_written_as_clients_write_it(text: str) -> None:
    assert question.proven(asked(sig=text), AT).key == NODE.public


@pytest.mark.parametrize(
    ("client", "options", "why"),
    [
        ({}, {"jwt": "x.y.z"}, "takes no JWTs"),
        ({}, {"nkey": ""}, "shows no key"),
        ({}, {"sig": ""}, "shows no key"),
        ({"nonce": ""}, {"sig": base64.b64encode(NODE.sign(b"")).decode()}, "gave no nonce"),
        ({}, {"nkey": Key.new().public}, "does not prove"),
        ({}, {"nkey": SERVER.public}, "no user's key"),
        ({}, {"nkey": "U" * 56}, "no user's key"),
        ({}, {"sig": "rubbish"}, "does not prove"),
        ({}, {"sig": "…"}, "does not prove"),
        ({"nonce": "another nonce"}, {}, "does not prove"),
        ({"host": "fe80::1"}, {}, "over IPv6"),
        ({"host": "n001"}, {}, "does not know its address"),
    ],
)
def test_all_else_proves_nothing(client: dict[str, str], options: dict[str, str], why: str) -> None:
    with pytest.raises(Unproven, match=why):
        question.proven(asked(client, **options), AT)


def test_an_ipv4_address_is_one_however_it_is_written() -> None:
    assert question.proven(asked({"host": "::ffff:10.77.0.11"}), AT).address == "10.77.0.11"


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"rubbish", "cannot be read"),
        (jwt.encode(claims(), Key.new(), 0).encode(), "key of kind N"),
        (jwt.encode(claims(), Key.new(Role.SERVER), 0).encode(), "server that signed it"),
        (jwt.encode({**claims(), "aud": "other"}, SERVER, 0).encode(), "no authorization request"),
        (jwt.encode({"aud": "x"}, SERVER, 0).encode(), "should be"),
        (jwt.encode(claims(server_id=7), SERVER, 0).encode(), "server_id"),
    ],
)
def test_what_no_server_asks_is_no_question(body: bytes, why: str) -> None:
    with pytest.raises(BadQuestion, match=why):
        question.read(body)


def test_an_answer_is_for_the_one_user_at_the_one_server_and_says_what_the_node_may() -> None:
    asks, seal = asked(), Seal(ISSUER, 1000)
    response = jwt.decode(answer.let_in(asks, "n001@b1", "n001", seal, 5000, 0.5), "A")
    assert (response["iss"], response["sub"], response["aud"]) == (ISSUER.public, asks.user_nkey, SERVER.public)
    assert response["nats"].keys() == {"type", "version", "jwt"}
    user = jwt.decode(response["nats"]["jwt"].encode(), "A")
    assert {name: user[name] for name in ("iss", "sub", "aud", "name", "exp")} == {
        "iss": ISSUER.public,
        "sub": asks.user_nkey,
        "aud": "CLUSTER",
        "name": "n001@b1",
        "exp": 5000 + 1050,
    }
    granted = permissions.node("n001")
    assert user["nats"]["pub"] == {"allow": list(granted.publish)}
    assert user["nats"]["sub"] == {"allow": list(granted.subscribe)}


def test_a_refusal_carries_its_reason() -> None:
    response = jwt.decode(answer.refuse(asked(), "because", Seal(ISSUER, 1000), 5000), "A")
    assert response["nats"] == {"type": "authorization_response", "version": 2, "error": "because"}
