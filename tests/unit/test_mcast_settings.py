"""Settings of mcastd: what is accepted, and how a wrong one is told."""

from pathlib import Path

import pytest

from shoal_mcastd.settings import Settings
from shoal_model.subjects import Service
from shoal_service.settings import parse


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"SHOAL_{name.upper()}", raising=False)


def test_the_defaults_serve_a_gigabit_head() -> None:
    settings = parse(Service.MCASTD, Settings, [])
    assert (settings.rate, settings.gather, settings.groups) == (110e6, 15, "239.77.0.0/16")
    assert (str(settings.listen), settings.metrics) == ("0.0.0.0", "127.0.0.1:9106")
    assert settings.image_store == Path("/var/lib/shoal/store")


def test_the_store_may_lie_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_STATE", "/srv/shoal")
    assert parse(Service.MCASTD, Settings, []).image_store == Path("/srv/shoal/store")
    assert parse(Service.MCASTD, Settings, ["--store", "/images"]).image_store == Path("/images")


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--gather", "0.5"), ("--gather", "soon"), ("--rate", "0"), ("--groups", "10.0.0.0/8"),
        ("--groups", "239.77.0.1/16"), ("--groups", "239.77.0.0/30"), ("--interface", "a/b"),
        ("--listen", "10.77.0.1:8081"),
    ],
)  # fmt: skip
def test_a_wrong_setting_ends_the_program_and_is_named(
    flag: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        parse(Service.MCASTD, Settings, [flag, value])
    assert flag in capsys.readouterr().err
