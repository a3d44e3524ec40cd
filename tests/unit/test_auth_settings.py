"""What auth is told of: keys that cannot be used end it before it answers anybody, and no seed is shown."""

import pytest

from shoal_auth.settings import AuthSettings
from shoal_identity.keys import Key, Role
from shoal_model.subjects import Service
from shoal_service.settings import parse

GOOD = Key.new().public


def test_boot_keys_are_a_list_of_public_keys() -> None:
    other = Key.new().public
    assert parse(Service.AUTH, AuthSettings, []).boot_keys == []
    assert parse(Service.AUTH, AuthSettings, ["--boot-keys", f"{GOOD}, {other}"]).boot_keys == [GOOD, other]


@pytest.mark.parametrize(
    "wrong",
    ["rubbish", "U", "Ü" * 56, GOOD.lower(), GOOD[:-1], GOOD + "A", Key.new(Role.ACCOUNT).public, Key.new().seed],
)
def test_a_boot_key_that_is_none_ends_it_with_a_reason_that_does_not_show_it(
    wrong: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SHOAL_BOOT_KEYS", f"{GOOD},{wrong}")
    with pytest.raises(SystemExit) as ended:
        parse(Service.AUTH, AuthSettings, [])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said == (
        "shoal-auth: SHOAL_BOOT_KEYS (--boot-keys): number 2 is no public key (`U…`); "
        "what we got is not shown: it may be a seed\n"
    )
