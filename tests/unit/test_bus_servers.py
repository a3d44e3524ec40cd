"""Which addresses are a server's, and that none is shown with its password."""

import pytest

from shoal_bus.dialling import in_words
from shoal_bus.servers import checked, without_secrets

GOOD = {
    "nats://10.77.0.1:4222": "nats://10.77.0.1:4222",
    "nats://head": "nats://head",
    "tls://user:hush@[fd00::1]:4223": "tls://[fd00::1]:4223",
    "nats://hush@head.example:4222": "nats://head.example:4222",
}
BAD = {
    "http://user:hush@head:4222": "http://head:4222",
    "user:hush@head:4222": "head:4222",
    "nats://user:hu@hush@head": "nats://head",
    "nats://user:hu/hush@head:4222": "nats://head:4222",
    "nats://user:hu hush@head": "nats://head",
    "nats://user:hu://hush@head": "nats://head",
    "user:hush://hush@head": "head",
    "nats://user:hush": "nats://user:…",
    "nats://": "nats://",
    "": "",
    "4222": "4222",
    "nats://head:x4222": "nats://head:…",
}


@pytest.mark.parametrize("address", GOOD)
def test_a_servers_address_is_shown_without_its_secrets(address: str) -> None:
    assert checked(address) == address
    assert without_secrets(address) == GOOD[address]


@pytest.mark.parametrize("address", BAD)
def test_what_is_no_servers_address_is_refused_without_its_secrets(address: str) -> None:
    assert without_secrets(address) == BAD[address]
    with pytest.raises(ValueError, match="expected nats://host:port, got") as caught:
        checked(address)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ("[Errno 111] Connect call failed ('127.0.0.1', 1)", "Connection refused"),
        (
            "Multiple exceptions: [Errno 111] Connect call failed ('::1', 1, 0, 0), "
            "[Errno 113] Connect call failed ('127.0.0.1', 1)",
            "Multiple exceptions: Connection refused, No route to host",
        ),
        ("[Errno -2] Name or service not known", "Name or service not known"),
        ("nats: 'user authentication expired'", "the server says: user authentication expired"),
        (
            "nats: 'Authorization Violation'",
            "the server says: Authorization Violation (it lets nobody in with this key, token or password)",
        ),
        ("nats: unexpected EOF", "nats: unexpected EOF"),
        ("[SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:1006)", "TLS: wrong version number"),
    ],
)
def test_a_connection_that_failed_is_told_in_words(told: str, words: str) -> None:
    assert in_words(told) == words
