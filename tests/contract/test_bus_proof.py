"""Who lets whom in: keys and tokens that prove us to a server, and certificates that prove the server to us."""

import asyncio
import base64
import datetime
import ipaddress
import json
import logging
import re
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from lab.nats_proxy import NatsProxy, until
from lab.nats_server import NatsServer
from shoal_bus.connection import Credentials, connect
from shoal_bus.errors import Unavailable
from shoal_identity.keys import Key, verify
from shoal_identity.trust import Trust


def users(*keys: Key) -> str:
    return f"authorization {{ users: [{', '.join(f'{{nkey: {key.public}}}' for key in keys)}] }}"


@asynccontextmanager
async def running(directory: Path, config: str = "") -> AsyncIterator[NatsServer]:
    server = NatsServer(directory / "server", config=config)
    server.start()
    try:
        yield server
    finally:
        server.kill()


async def test_a_key_proves_us(tmp_path: Path) -> None:
    key = Key.new()
    async with running(tmp_path, users(key)) as server:
        async with await connect([server.url], name="test", credentials=Credentials(key=key), timeout=10) as bus:
            await bus.flush()
        with pytest.raises(Unavailable, match=r"the server says: Authorization Violation"):
            await connect([server.url], name="test", credentials=Credentials(key=Key.new()), timeout=1)
        with pytest.raises(Unavailable, match=r"the server says: Authorization Violation"):
            await connect([server.url], name="test", timeout=1)


@pytest.mark.parametrize("credentials", [Credentials(key=Key.new()), Credentials(key=Key.new(), token="t")])
async def test_a_server_that_asks_for_no_proof_takes_us(nats_server: NatsServer, credentials: Credentials) -> None:
    async with await connect([nats_server.url], name="test", credentials=credentials, timeout=10) as bus:
        await bus.flush()


class FakeServer:
    """Says that it is a server with this nonce, and keeps what it is told."""

    def __init__(self, **info: object) -> None:
        self.told: list[bytes] = []
        self._info = {"server_id": "x", "version": "2.15.1", "max_payload": 1 << 20, "headers": True, **info}

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._join, "127.0.0.1", 0)
        async with server:
            yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"INFO " + json.dumps(self._info).encode() + b"\r\n")
        while line := await reader.readline():
            self.told.append(line)
            if line == b"PING\r\n":
                writer.write(b"PONG\r\n")
        writer.close()


async def test_key_signature_and_token_go_together() -> None:
    key, fake = Key.new(), FakeServer(nonce="bm9uY2Utb2Y-MTU", auth_required=True)
    async with fake.serve() as where:
        credentials = Credentials(key=key, token="once", user="ignored", password="hush")
        async with await connect([f"nats://{where}"], name="test", credentials=credentials, timeout=10):
            pass
    said = json.loads(fake.told[0].removeprefix(b"CONNECT "))
    assert (said["nkey"], said["auth_token"]) == (key.public, "once")
    assert "pass" not in said
    assert verify(key.public, b"bm9uY2Utb2Y-MTU", base64.b64decode(said["sig"]))
    assert not any(key.seed.encode() in line for line in fake.told)


@pytest.mark.parametrize("nonce", ["", "short", "x" * 65, "shoal boot token\0…"])
async def test_a_server_gets_nothing_signed_but_a_nonce(nonce: str) -> None:
    fake = FakeServer(nonce=nonce, auth_required=True)
    async with fake.serve() as where:
        with pytest.raises(Unavailable, match="no nonce"):
            await connect([f"nats://{where}"], name="test", credentials=Credentials(key=Key.new()), timeout=0.5)
    assert fake.told == []


async def test_a_key_shows_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    key = Key.new()
    caplog.set_level(logging.DEBUG)
    with pytest.raises(Unavailable) as caught:
        await connect(["nats://127.0.0.1:1"], name="x", credentials=Credentials(key=key, token="hush"), timeout=0.3)
    for text in (repr(Credentials(key=key, token="hush")), str(caught.value), caplog.text):
        assert key.seed not in text
        assert "hush" not in text


async def test_what_ends_a_connection_is_told(proxy: NatsProxy, caplog: pytest.LogCaptureFixture) -> None:
    async with await connect([proxy.url], name="test", timeout=10) as connection:
        proxy.say(b"-ERR 'User Authentication Expired'\r\n")
        await until(lambda: connection.counts["lost_connections"] == 1)
        assert re.search(r"bus\.lost server=nats://\S+ error=the server says: user authentication expired", caplog.text)
        await connection.link(10)
        proxy.cut()
        await until(lambda: connection.counts["lost_connections"] == 2)
        assert len(re.findall(r"bus\.lost server=\S+ error=.*(?:EOF|[Rr]eset)", caplog.text)) == 1


async def test_answers_that_may_not_be_heard_are_told_of(tmp_path: Path) -> None:
    rights = '{publish: [">"], subscribe: ["_INBOX.mine.>"]}'
    config = f"authorization {{ users: [{{user: a, password: x, permissions: {rights}}}] }}"
    async with running(tmp_path, config) as server:
        mine = Credentials(user="a", password="x", inbox_prefix="_INBOX.mine")
        async with await connect([server.url], name="test", credentials=mine, timeout=10) as bus:
            await bus.flush()
        with pytest.raises(Unavailable, match=r"does not let us hear answers at _INBOX\.>"):
            await connect([server.url], name="test", credentials=Credentials(user="a", password="x"), timeout=1)


class Authority:
    """A CA, and servers with certificates of it."""

    def __init__(self, name: str) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = self._builder(self._key, self._name).add_extension(
            x509.BasicConstraints(ca=True, path_length=0), critical=True
        )
        self.pem = certificate.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()

    @property
    def context(self) -> ssl.SSLContext:
        return Trust(self.pem).client_context()

    def tls(self, directory: Path, alternative: x509.GeneralName, *, age: int = 0) -> str:
        """The server's configuration with a certificate for this address or name, `age` days old and valid for 10."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([alternative])
        certificate = self._builder(key, x509.Name([]), age).add_extension(names, critical=True)
        pem = certificate.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        directory.mkdir(exist_ok=True)
        (directory / "server.crt").write_bytes(pem)
        plain = serialization.NoEncryption()
        pkcs8 = serialization.PrivateFormat.PKCS8
        (directory / "server.key").write_bytes(key.private_bytes(serialization.Encoding.PEM, pkcs8, plain))
        return f"tls {{ cert_file: {directory}/server.crt, key_file: {directory}/server.key }}"

    def _builder(self, key: ec.EllipticCurvePrivateKey, subject: x509.Name, age: int = 0) -> x509.CertificateBuilder:
        from_ = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=age, hours=1)
        return x509.CertificateBuilder(
            issuer_name=self._name,
            subject_name=subject,
            public_key=key.public_key(),
            serial_number=x509.random_serial_number(),
            not_valid_before=from_,
            not_valid_after=from_ + datetime.timedelta(days=10),
        )


LOOPBACK = x509.IPAddress(ipaddress.IPv4Address("127.0.0.1"))


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority("cluster")


async def test_a_certificate_of_our_ca_is_taken(
    tmp_path: Path, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    key = Key.new()
    async with running(tmp_path, f"{authority.tls(tmp_path, LOOPBACK)}\n{users(key)}") as server:
        credentials = Credentials(key=key, tls=authority.context)
        for url in (server.url.replace("nats:", "tls:"), server.url):
            caplog.clear()
            async with await connect([url], name="test", credentials=credentials, timeout=10) as bus:
                await bus.subscribe("test.echo", _same)
                assert await bus.request("test.echo", {"a": 1}) == {"a": 1}
                server.restart()
                await until(lambda: bus.counts["lost_connections"] == 1)
                assert await bus.request("test.echo", {"a": 2}, timeout=10) == {"a": 2}
            assert "asyncio" not in {record.name for record in caplog.records}


async def _same(_subject: str, message: dict[str, object]) -> dict[str, object]:
    return message


Refusal = tuple[str, Callable[[Path, Authority], str], bool, str]
REFUSALS: list[Refusal] = [
    ("another CA", lambda at, _: Authority("enemy").tls(at, LOOPBACK), True, r"certificate is refused: .*issuer"),
    (
        "the same name, another key",
        lambda at, _: Authority("cluster").tls(at, LOOPBACK),
        True,
        r"certificate is refused: |TLS: ",
    ),
    (
        "another address",
        lambda at, ca: ca.tls(at, x509.IPAddress(ipaddress.IPv4Address("127.0.0.2"))),
        True,
        r"certificate is refused: IP address mismatch.*'127\.0\.0\.1'",
    ),
    (
        "a name for an address",
        lambda at, ca: ca.tls(at, x509.DNSName("127.0.0.1")),
        True,
        r"certificate is refused: IP address mismatch",
    ),
    ("an old one", lambda at, ca: ca.tls(at, LOOPBACK, age=11), True, r"certificate is refused: .*expired"),
    ("no CA to check with", lambda at, ca: ca.tls(at, LOOPBACK), False, r"no CA to check its certificate with"),
    ("no TLS", lambda _at, _ca: "", True, r"does not offer TLS: it is not told who we are"),
]


@pytest.mark.parametrize(("make", "checked", "told"), [case[1:] for case in REFUSALS], ids=[c[0] for c in REFUSALS])
async def test_a_server_that_does_not_prove_itself_is_refused(
    tmp_path: Path, authority: Authority, make: Callable[[Path, Authority], str], checked: bool, told: str
) -> None:
    async with running(tmp_path, make(tmp_path, authority)) as server:
        credentials = Credentials(key=Key.new(), token="hush", tls=authority.context if checked else None)
        url = server.url.replace("nats:", "tls:")
        with pytest.raises(Unavailable, match=told):
            await connect([url], name="test", credentials=credentials, timeout=1)
        assert "hush" not in (server.directory / "nats.log").read_text()


async def test_a_server_that_wants_tls_is_not_trusted_for_that(tmp_path: Path, authority: Authority) -> None:
    """nats-py would take whomever this machine takes."""
    async with running(tmp_path, authority.tls(tmp_path, LOOPBACK)) as server:
        with pytest.raises(Unavailable, match="the server wants TLS, and there is no CA to check its certificate with"):
            await connect([server.url], name="test", timeout=1)


async def test_a_server_that_leaves_tls_out_learns_nothing(authority: Authority) -> None:
    """Somebody between us and the server may take the offer of TLS out of it."""
    fake = FakeServer(nonce="bm9uY2Utb2YtMTU", auth_required=True)
    async with fake.serve() as where:
        credentials = Credentials(key=Key.new(), token="hush", tls=authority.context)
        with pytest.raises(Unavailable, match="does not offer TLS"):
            await connect([f"tls://{where}"], name="test", credentials=credentials, timeout=0.5)
    assert fake.told == []
