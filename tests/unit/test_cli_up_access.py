"""How commands find a cluster and prove themselves to it, and what they say when they cannot."""

import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from shoal_cli.identity import ca
from shoal_cli.main import run
from shoal_cli.session import Access, access, write_context
from shoal_identity.keys import Key
from shoal_identity.trust import Trust


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state directory with a trust file and a key, for a bus that is not there."""
    for name in ("SHOAL_NATS", "SHOAL_CA", "SHOAL_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SHOAL_STATE", str(tmp_path))
    monkeypatch.setattr("shoal_cli.session._CONNECT_SECONDS", 0.2)
    certificate, _ = ca.new_authority(datetime.now(UTC))
    (tmp_path / "ca.crt").write_bytes(Trust(certificate.decode()).dump())
    Key.new().write(tmp_path / "key")
    return tmp_path


def test_what_is_written_is_read_again_whatever_the_paths_are(tmp_path: Path) -> None:
    odd = tmp_path / f"a: #b 'ü {'long ' * 30}"
    there = Access(("tls://10.77.0.1:4222",), odd / "ca.crt", odd / "key")
    write_context(tmp_path, there)
    assert access(None, None, None, tmp_path) == there
    assert stat.S_IMODE((tmp_path / "context.yaml").stat().st_mode) == 0o644
    assert yaml.safe_load((tmp_path / "context.yaml").read_text()) == {
        "nats": "tls://10.77.0.1:4222",
        "ca": str(odd / "ca.crt"),
        "key": str(odd / "key"),
    }


def test_what_is_given_goes_before_what_a_head_left(tmp_path: Path) -> None:
    write_context(tmp_path, Access(("tls://10.77.0.1:4222",), tmp_path / "ca.crt", tmp_path / "key"))
    mine = Path("/home/me/key")
    assert access(None, None, mine, tmp_path) == Access(("tls://10.77.0.1:4222",), tmp_path / "ca.crt", mine)
    assert access("tls://a:4222, tls://b:4222", mine, None, tmp_path) == Access(("tls://a:4222", "tls://b:4222"), mine)


def test_a_context_of_a_head_without_identity_is_still_read(tmp_path: Path) -> None:
    (tmp_path / "context.yaml").write_text("nats: nats://10.77.0.1:4222\n")
    assert access(None, None, None, tmp_path) == Access(("nats://10.77.0.1:4222",))


def complaint(state: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a command says that fails."""
    write_context(state, Access(("tls://127.0.0.1:1",), state / "ca.crt", state / "key"))
    assert run([*arguments, "node", "list"]) == 1
    told = capsys.readouterr().err
    assert told.startswith("shoal: ")
    assert told.count("\n") == 1
    assert "SU" not in told
    return told


def test_a_bus_that_is_not_there(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "tls://127.0.0.1:1: Connection refused. Does `shoal up` run" in complaint(state, capsys)


def test_a_key_that_one_may_not_read(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = complaint(state, capsys, "--key", str(state / "nobody"))
    assert f"cannot read the key {state / 'nobody'}: No such file or directory. Run this as root on the head" in told
    assert "--key FILE or SHOAL_KEY" in told


def test_a_key_that_others_may_read(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (state / "key").chmod(0o644)
    told = complaint(state, capsys)
    assert f"`chmod 600 {state / 'key'}`" in told
    assert "as root" not in told


def test_a_key_that_is_none(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (state / "key").write_text("x\n")
    assert f"{state / 'key'}: a key is written in base32" in complaint(state, capsys)


def test_a_trust_file_that_is_none(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (state / "ca.crt").write_text("x\n")
    assert f"{state / 'ca.crt'}: ca.crt holds no certificate" in complaint(state, capsys)
    (state / "ca.crt").unlink()
    told = complaint(state, capsys)
    assert f"cannot read {state / 'ca.crt'}, which says whose bus to trust: No such file" in told
