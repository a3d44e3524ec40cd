"""The settings of the services side by side: one name is one thing in all of them."""

from types import NoneType
from typing import get_args

import pytest

import shoal_auth.settings
import shoal_dhcp.settings
import shoal_execd_config.settings
import shoal_fleet.settings
import shoal_image_builder.settings
import shoal_mcastd.settings
import shoal_registry.settings
import shoal_tftp.settings
from shoal_model import ports
from shoal_model.subjects import Service
from shoal_service.settings import ListeningSettings, ServiceSettings, parse

EVERY: dict[Service, type[ServiceSettings]] = {
    Service.REGISTRY: shoal_registry.settings.RegistrySettings,
    Service.AUTH: shoal_auth.settings.AuthSettings,
    Service.FLEET: shoal_fleet.settings.FleetSettings,
    Service.DHCP: shoal_dhcp.settings.Settings,
    Service.TFTP: shoal_tftp.settings.TftpSettings,
    Service.IMAGE_BUILDER: shoal_image_builder.settings.Settings,
    Service.MCASTD: shoal_mcastd.settings.Settings,
    Service.EXECD_CONFIG: shoal_execd_config.settings.Settings,
}
FLAGS = {Service.DHCP: ["--interface", "eth1"]}
LISTENING = [Service.TFTP, Service.MCASTD, Service.EXECD_CONFIG, Service.FLEET]


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for settings in EVERY.values():
        for name in settings.model_fields:
            monkeypatch.delenv(f"SHOAL_{name.upper()}", raising=False)


def test_none_is_missing() -> None:
    assert set(EVERY) == set(Service)


@pytest.mark.parametrize("service", Service)
def test_each_tells_of_itself_at_its_own_port_or_where_it_is_told_to(
    service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    settings, flags = EVERY[service], FLAGS.get(service, [])
    assert parse(service, settings, flags).metrics == f"127.0.0.1:{ports.METRICS[service]}"
    assert parse(service, settings, [*flags, "--metrics", "[::1]:1"]).metrics == "[::1]:1"
    with pytest.raises(SystemExit, match="2"):
        parse(service, settings, [*flags, "--metrics", "rubbish"])
    assert "SHOAL_METRICS (--metrics): expected host:port, got 'rubbish'" in capsys.readouterr().err


@pytest.mark.parametrize("service", LISTENING)
def test_those_that_nodes_speak_to_listen_at_one_address_that_may_be_set_for_all(
    service: Service, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = EVERY[service]
    assert issubclass(settings, ListeningSettings)
    assert str(parse(service, settings, []).listen) == "0.0.0.0"
    monkeypatch.setenv("SHOAL_LISTEN", "10.77.0.1")
    assert str(parse(service, settings, []).listen) == "10.77.0.1"
    monkeypatch.setenv("SHOAL_LISTEN", "10.77.0.1:8080")
    with pytest.raises(SystemExit, match="2"):
        parse(service, settings, [])
    told = capsys.readouterr().err
    assert "SHOAL_LISTEN (--listen): Input is not a valid IPv4 address, got '10.77.0.1:8080'" in told


def test_a_name_is_of_one_type_in_all_of_them() -> None:
    types: dict[str, set[object]] = {}
    for settings in EVERY.values():
        for name, field in settings.model_fields.items():
            parts = set(get_args(field.annotation)) - {NoneType} or {field.annotation}
            types.setdefault(name, set()).add(frozenset(parts))
    assert {name: found for name, found in types.items() if len(found) > 1} == {}
