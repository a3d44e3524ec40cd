"""Certificates at the doors of a head: what is taken, what is refused, and what is renewed while connections come."""

import asyncio
import logging
import os
import ssl
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from lab.certificates import Authority
from shoal_service.errors import Fatal
from shoal_service.http import served
from shoal_service.settings import ListeningSettings
from shoal_service.tls import scheme, server_context


class Head:
    """The files of a head's TLS."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority()
        self.certificate, self.key = folder / "head.crt", folder / "head.key"
        self.authority.issue(self.certificate, self.key)

    @property
    def settings(self) -> ListeningSettings:
        return ListeningSettings(tls_cert=self.certificate, tls_key=self.key)

    @asynccontextmanager
    async def door(self) -> AsyncIterator[int]:
        async def hello(_: web.Request) -> web.Response:
            return web.Response(text="hello")

        application = web.Application()
        application.router.add_get("/", hello)
        async with served(application, "127.0.0.1", 0, tls=server_context(self.settings)) as port:
            yield port

    async def ask(self, port: int, context: ssl.SSLContext | None = None) -> bytes:
        """The certificate (DER) that the door shows on a new connection, after an answer over it."""
        context = context or self.authority.trust.client_context()
        async with asyncio.timeout(10):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
            shown: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
            writer.write(b"GET / HTTP/1.1\r\nHost: head\r\nConnection: close\r\n\r\n")
            assert (await reader.read()).endswith(b"hello")
            writer.close()
            await writer.wait_closed()
        return shown


@pytest.fixture
def head(tmp_path: Path) -> Head:
    return Head(tmp_path)


def test_without_files_there_is_no_tls(head: Head) -> None:
    assert server_context(ListeningSettings()) is None
    assert (scheme(ListeningSettings()), scheme(head.settings)) == ("http", "https")


async def test_a_door_with_a_certificate_proves_itself(head: Head) -> None:
    async with head.door() as port:
        await head.ask(port)
        with pytest.raises(ssl.SSLCertVerificationError):
            await head.ask(port, Authority().trust.client_context())


async def test_a_door_with_a_certificate_answers_nobody_without_tls(head: Head) -> None:
    async with head.door() as port, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: head\r\n\r\n")
        assert b"HTTP" not in await reader.read()
        writer.close()


async def test_nothing_older_than_tls_1_2(head: Head) -> None:
    client = head.authority.trust.client_context()
    client.set_ciphers("ALL:@SECLEVEL=0")
    async with head.door() as port:
        client.maximum_version = ssl.TLSVersion.TLSv1_2
        await head.ask(port, client)
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
            client.minimum_version, client.maximum_version = ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1_1
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await head.ask(port, client)


async def test_a_renewed_pair_serves_new_connections(head: Head, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with head.door() as port:
        before = await head.ask(port)
        assert await head.ask(port) == before
        head.authority.issue(head.certificate, head.key)
        after = await head.ask(port)
        assert after == ssl.PEM_cert_to_DER_cert(head.certificate.read_text()) != before
        assert [record.message for record in caplog.records] == [f"tls.renewed certificate={head.certificate}"]


async def test_half_a_renewal_changes_nothing_until_it_is_whole(
    head: Head, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with head.door() as port:
        before = await head.ask(port)
        head.authority.issue(tmp_path / "new.crt", tmp_path / "new.key")
        os.replace(tmp_path / "new.crt", head.certificate)
        assert await head.ask(port) == before
        assert await head.ask(port) == before
        [told] = [record.message for record in caplog.records]
        assert "is for another key" in told
        head.key.unlink()
        assert await head.ask(port) == before
        os.replace(tmp_path / "new.key", head.key)
        assert await head.ask(port) != before


async def test_a_key_that_others_may_read_from_now_on_is_told_and_the_old_one_stays(
    head: Head, caplog: pytest.LogCaptureFixture
) -> None:
    async with head.door() as port:
        before = await head.ask(port)
        head.key.chmod(0o640)
        assert await head.ask(port) == before
        assert f"chmod 600 {head.key}" in caplog.text


def refused(settings: ListeningSettings) -> str:
    with pytest.raises(Fatal) as raised:
        server_context(settings)
    return str(raised.value)


def test_half_of_a_pair_is_refused(head: Head) -> None:
    for settings in (ListeningSettings(tls_cert=head.certificate), ListeningSettings(tls_key=head.key)):
        assert refused(settings) == (
            "SHOAL_TLS_CERT and SHOAL_TLS_KEY go together: set both, or neither for HTTP without TLS"
        )


def test_what_does_not_fit_is_refused(head: Head, tmp_path: Path) -> None:
    head.authority.issue(tmp_path / "other.crt", tmp_path / "other.key")
    os.replace(tmp_path / "other.key", head.key)
    assert refused(head.settings) == (
        f"the certificate {head.certificate} is for another key than {head.key}: SHOAL_TLS_CERT, SHOAL_TLS_KEY"
    )


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666])
def test_a_key_that_others_may_read_is_refused(head: Head, mode: int) -> None:
    head.key.chmod(mode)
    assert "may be read by others: `chmod 600" in refused(head.settings)


def test_a_key_with_a_passphrase_is_refused(head: Head) -> None:
    secret = ec.generate_private_key(ec.SECP256R1())
    head.key.write_bytes(secret.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x")))
    assert "passphrase" in refused(head.settings)


def test_files_that_are_missing_or_something_else_are_refused(head: Head) -> None:
    seed = head.key.read_bytes()
    head.key.write_bytes(b"nothing")
    assert "is no such thing in PEM" in refused(head.settings)
    head.key.unlink()
    assert f"cannot read the key {head.key} (SHOAL_TLS_KEY): No such file" in refused(head.settings)
    head.key.touch(mode=0o600)
    head.key.write_bytes(seed)
    head.certificate.unlink()
    assert f"cannot read the certificate {head.certificate} (SHOAL_TLS_CERT): No such" in refused(head.settings)
