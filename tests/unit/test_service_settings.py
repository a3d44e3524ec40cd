"""How a service's settings are read, and what is said of wrong ones."""

from ipaddress import IPv4Address
from pathlib import Path

import pytest
from pydantic import Field, ValidationError

from shoal_model.subjects import Service
from shoal_service.settings import HostPort, ServiceSettings, host_port, parse


class Settings(ServiceSettings):
    """Answers DHCP."""

    interface: str = Field(description="the boot NIC: 100% needed")
    http: HostPort = Field("0.0.0.0:8080", description="the HTTP door")
    modules: list[str] = Field([], description="words")
    relays: tuple[IPv4Address, ...] = Field((), description="addresses")
    authoritative: bool = Field(False, description="yes or no")
    store: Path | None = Field(None, description="the image store")


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NATS", "METRICS", "STATE", "STORE", "LOG_LEVEL", "LOG_JSON", "INTERFACE", "HTTP", "MODULES"):
        monkeypatch.delenv(f"SHOAL_{name}", raising=False)


def test_defaults() -> None:
    settings = parse(Service.DHCP, Settings, ["--interface", "eth1"])
    assert settings.nats == ["nats://127.0.0.1:4222"]
    assert settings.metrics == "127.0.0.1:9103"
    assert settings.log_level == "info"
    assert settings.state == Path("/var/lib/shoal")
    assert settings.interface == "eth1"


def test_variables_and_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_NATS", "nats://a:4222, nats://user:pw@[fd00::1]:4223,tls://c")
    monkeypatch.setenv("SHOAL_INTERFACE", "eth0")
    monkeypatch.setenv("SHOAL_MODULES", "core,slurm")
    monkeypatch.setenv("SHOAL_RELAYS", "10.0.0.1,10.0.0.2")
    monkeypatch.setenv("SHOAL_STATE", "")
    flags = ["--interface=eth1", "--log-level", "debug", "--authoritative", "yes", "--metrics", "[::1]:9999"]
    settings = parse(Service.DHCP, Settings, flags)
    assert settings.nats == ["nats://a:4222", "nats://user:pw@[fd00::1]:4223", "tls://c"]
    assert settings.interface == "eth1"
    assert settings.modules == ["core", "slurm"]
    assert settings.relays == (IPv4Address("10.0.0.1"), IPv4Address("10.0.0.2"))
    assert settings.state == Path("/var/lib/shoal")
    assert settings.authoritative is True
    assert settings.metrics == "[::1]:9999"


def test_a_flag_alone_decides_a_list() -> None:
    assert parse(Service.DHCP, Settings, ["--interface", "x", "--modules", "a,b , ,c"]).modules == ["a", "b", "c"]


def test_settings_cannot_be_changed() -> None:
    settings = parse(Service.TFTP, ServiceSettings, [])
    with pytest.raises(ValidationError, match="frozen"):
        settings.__setattr__("log_level", "debug")


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ([], "shoal-dhcp: SHOAL_INTERFACE (--interface): is required"),
        (["--metrics", "9103"], "SHOAL_METRICS (--metrics): expected host:port, got '9103'"),
        (["--metrics", "a b:1"], "SHOAL_METRICS (--metrics): expected host:port, got 'a b:1'"),
        (["--http", "x:99999"], "SHOAL_HTTP (--http): expected host:port, got 'x:99999'"),
        (["--nats", "http://x"], "SHOAL_NATS (--nats): expected nats://host:port, got 'http://x'"),
        (["--nats", ","], "SHOAL_NATS (--nats): List should have at least 1 item after validation, not 0, got '[]'"),
        (["--log-level", "loud"], "SHOAL_LOG_LEVEL (--log-level): Input should be 'debug', 'info', 'warning'"),
        (["--authoritative", "maybe"], "SHOAL_AUTHORITATIVE (--authoritative): Input should be a valid boolean"),
        (["--no-such-flag", "x"], "unrecognized arguments: --no-such-flag x"),
        (["--interfac", "x"], "unrecognized arguments: --interfac x"),
    ],
)
def test_a_wrong_setting_is_named(flags: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(Service.DHCP, Settings, flags)
    assert ended.value.code == 2
    assert line in capsys.readouterr().err


@pytest.mark.parametrize(
    "servers", ["http://u:hush@h", "nats://u:hu,hush@h", "nats://a:4222,u:hush@h", "nats://u:hush"]
)
def test_a_password_is_never_told(
    servers: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SHOAL_NATS", servers)
    with pytest.raises(SystemExit):
        parse(Service.DHCP, Settings, ["--interface", "x"])
    told = capsys.readouterr().err
    assert "shoal-dhcp: SHOAL_NATS (--nats): expected nats://host:port, got '" in told
    assert "hu" not in told


def test_every_wrong_setting_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("SHOAL_LOG_LEVEL", "loud")
    with pytest.raises(SystemExit):
        parse(Service.DHCP, Settings, ["--http", "x"])
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[1] for line in lines] == ["SHOAL_LOG_LEVEL", "SHOAL_INTERFACE", "SHOAL_HTTP"]


def test_help_tells_of_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(Service.DHCP, Settings, ["--help"])
    assert ended.value.code == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "Answers DHCP." in told
    assert "--interface INTERFACE the boot NIC: 100% needed (SHOAL_INTERFACE; required)" in told
    assert "(SHOAL_METRICS; default: 127.0.0.1:9103)" in told
    assert "(SHOAL_NATS; default: nats://127.0.0.1:4222)" in told
    assert "--log-level" in told


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:80", ("127.0.0.1", 80)),
        (":80", ("0.0.0.0", 80)),
        ("[::1]:80", ("::1", 80)),
        ("head.example:0", ("head.example", 0)),
    ],
)
def test_host_and_port(text: str, expected: tuple[str, int]) -> None:
    assert host_port(text) == expected


@pytest.mark.parametrize("text", ["", "80", "host", "host:", "host:x", "host:65536", "::1:80", "[::1]", "a/b:1", "h:٣"])
def test_what_is_no_host_and_port(text: str) -> None:
    with pytest.raises(ValueError, match="expected host:port"):
        host_port(text)
