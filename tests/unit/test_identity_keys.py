"""Keys as NATS writes them: against known vectors, with rubbish, and in files."""

import base64
import binascii
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal_identity.keys import Key, KeyProblem, Role, is_public, raw_public, verify

# In the documentation and the tests of nats-io/nkeys and its ports: keys that everybody knows.
SEEDS = (
    "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY",
    "SUAMLK2ZNL35WSMW37E7UD4VZ7ELPKW7DHC3BWBSD2GCZ7IUQQXZIORRBU",
    "SUAKYRHVIOREXV7EUZTBHUHL7NUMHPMAS7QMDU3GTIUWEI5LDNOXD43IZY",
    "SAAPXJRFMUYDUH3NOZKE7BS2ZDO2P4ND7G6W743MTNA3KCSFPX3HNN6AX4",
)
PUBLICS = (
    "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4",
    "UCK5N7N66OBOINFXAYC2ACJQYFSOD4VYNU6APEJTAVFZB2SVHLKGEW7L",
    "UD466L6EBCM3YY5HEGHJANNTN4LSKTSUXTH7RILHCKEQMQHTBNLHJJXT",
    "ACPWDUYSZRRF7XAEZKUAGPUH6RPICWEHSTFELYKTOWUVZ4R2XMP4QJJX",
)
SEED, PUBLIC = SEEDS[0], PUBLICS[0]


@pytest.mark.parametrize(("seed", "public"), list(zip(SEEDS, PUBLICS, strict=True)))
def test_a_seed_gives_its_public_key(seed: str, public: str) -> None:
    key = Key.from_seed(seed)
    assert (key.public, key.seed) == (public, seed)
    assert len(raw_public(key.public)) == 32


@pytest.mark.parametrize(
    ("seed", "data", "signature"),
    [
        (
            SEEDS[1],
            b"PXoWU7zWAMt75FY",
            "ZaAiVDgB5CeYoXoQ7cBCmq-ZllzUnGUoDVb8C7PilWvCs8XKfUchAUhz2P4BYAF--Dg3w05CqyQFRDiGL6LrDw==",
        ),
        (
            SEEDS[2],
            b"Hello World!\n",
            "0CK1XmkxNfUGfudxliWTWeoETgIo23m9qowS9yTfYFSrjR8HgAW63jQ3NxPU_jG38hZPW61IZSun37N690CkDg==",
        ),
    ],
)
def test_a_signature_is_the_one_that_others_make(seed: str, data: bytes, signature: str) -> None:
    key = Key.from_seed(seed)
    assert base64.urlsafe_b64encode(key.sign(data)).decode() == signature
    assert verify(key.public, data, base64.urlsafe_b64decode(signature))


@pytest.mark.parametrize("role", Role)
def test_a_new_key_is_like_no_other_and_survives_its_seed(role: Role) -> None:
    key, other = Key.new(role), Key.new(role)
    assert key.public != other.public
    assert key.public[0] == {Role.USER: "U", Role.ACCOUNT: "A", Role.SERVER: "N"}[role]
    assert key.seed[:2] == f"S{key.public[0]}"
    assert Key.from_seed(key.seed) == key
    assert is_public(key.public)
    assert not is_public(key.seed)


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_a_signature_holds_for_its_key_and_its_bytes_alone(data: bytes, other: bytes) -> None:
    key = Key.from_seed(SEED)
    signature = key.sign(data)
    assert verify(key.public, data, signature)
    assert verify(key.public, other, signature) == (other == data)
    assert not verify(PUBLICS[1], data, signature)


@given(st.integers(0, 511))
def test_one_bit_makes_a_signature_wrong(bit: int) -> None:
    key = Key.from_seed(SEED)
    signature = bytearray(key.sign(b"data"))
    signature[bit // 8] ^= 1 << bit % 8
    assert not verify(key.public, b"data", bytes(signature))


@given(st.text() | st.sampled_from([SEED, ""]), st.binary(), st.binary(max_size=80))
def test_nothing_is_signed_by_what_is_no_key(public: str, data: bytes, signature: bytes) -> None:
    assert not verify(public, data, signature)


@given(st.text(max_size=70) | st.text(alphabet="ABCDEFGHIJKLMNOPQRSTUVWXYZ234567=", max_size=70))
def test_rubbish_is_no_key(text: str) -> None:
    assert not is_public(text)
    with pytest.raises(KeyProblem):
        Key.from_seed(text)
    with pytest.raises(KeyProblem):
        raw_public(text)


@given(st.sampled_from([SEED, PUBLIC]), st.integers(0, 57), st.sampled_from("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"))
def test_a_slip_of_the_pen_is_noticed(text: str, place: int, letter: str) -> None:
    place %= len(text)
    wrong = text[:place] + letter + text[place + 1 :]
    if wrong == text:
        return
    for read in (Key.from_seed, raw_public):
        with pytest.raises(KeyProblem) as caught:
            read(wrong)
        assert wrong not in str(caught.value)


@pytest.mark.parametrize(
    "text", [f"{SEED}A", SEED[:-1], SEED.lower(), f" {SEED}", f"{SEED}=", SEED.replace("S", "Ş"), PUBLIC]
)
def test_what_is_nearly_a_seed_is_none_and_not_shown(text: str) -> None:
    with pytest.raises(KeyProblem) as caught:
        Key.from_seed(text)
    assert text.strip()[5:20] not in str(caught.value)


def test_each_key_has_one_spelling() -> None:
    """Base32 leaves bits over at the end of a seed: two texts for one key would be two keys to whoever compares."""
    last = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
    good = [letter for letter in last if _is_seed(SEED[:-1] + letter)]
    assert good == [SEED[-1]]


def _is_seed(text: str) -> bool:
    try:
        Key.from_seed(text)
    except KeyProblem:
        return False
    return True


def test_the_seed_of_another_kind_of_key_is_refused() -> None:
    raw = base64.b32decode(SEED + "=" * (-len(SEED) % 8))
    operator = bytes([18 << 3 | (14 << 3) >> 5, ((14 << 3) & 0x1F) << 3]) + raw[2:-2]
    text = base64.b32encode(operator + binascii.crc_hqx(operator, 0).to_bytes(2, "little")).decode().rstrip("=")
    assert text.startswith("SO")
    with pytest.raises(KeyProblem, match="another kind of key"):
        Key.from_seed(text)


def test_a_key_does_not_show_its_seed() -> None:
    key = Key.new()
    assert key.public in repr(key)
    for text in (repr(key), str(key), f"{key}", repr([key]), repr({"key": key})):
        assert key.seed not in text
        assert key.seed[:12] not in text


def test_a_key_is_kept_for_its_owner_alone(tmp_path: Path) -> None:
    key, path = Key.new(), tmp_path / "key"
    before = os.umask(0)
    try:
        key.write(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert Key.read(path) == key
    with pytest.raises(FileExistsError):
        Key.new().write(path)
    assert Key.read(path) == key


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o601, 0o666])
def test_a_key_that_others_may_touch_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "key"
    Key.new().write(path)
    path.chmod(mode)
    with pytest.raises(KeyProblem, match=rf"{path} may be read by others: `chmod 600 {path}`"):
        Key.read(path)
    path.chmod(0o400)
    assert Key.read(path)


BAD = {
    "empty": (b"", "damaged"),
    "no text": (b"\xff\xfe\x00", "this is no text"),
    "public": (PUBLIC.encode(), "damaged"),
    "two": (f"{SEED}\n{SEED}\n".encode(), "at most 64 characters"),
    "large": (b"S" * 1_000_000, "at most 64 characters"),
    "cut": (SEED[:-4].encode(), "base32|damaged"),
}


@pytest.mark.parametrize(("content", "told"), BAD.values(), ids=BAD)
def test_a_file_that_holds_no_key_is_named_and_not_shown(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(KeyProblem, match=told) as caught:
        Key.read(path)
    assert str(path) in str(caught.value)
    assert SEED[5:20] not in str(caught.value)


@pytest.mark.parametrize(("name", "told"), [("none", "No such file"), (".", "Is a directory")])
def test_a_file_that_is_none_is_named(tmp_path: Path, name: str, told: str) -> None:
    with pytest.raises(KeyProblem, match=rf"cannot read the key {tmp_path}.*{told}"):
        Key.read(tmp_path / name)


@pytest.mark.parametrize("ending", ["", "\n", "\r\n", "  \n\n"])
def test_what_editors_leave_at_the_end_does_not_matter(tmp_path: Path, ending: str) -> None:
    path = tmp_path / "key"
    path.write_text(SEED + ending)
    path.chmod(0o600)
    assert Key.read(path).public == PUBLIC


def test_keys_that_are_equal_are_one() -> None:
    assert Key.from_seed(SEED) == Key.from_seed(SEED)
    assert len({Key.from_seed(SEED), Key.from_seed(SEED), Key.new()}) == 2


def test_a_pipe_in_the_place_of_a_key_holds_nobody(tmp_path: Path) -> None:
    path = tmp_path / "seed"
    os.mkfifo(path, 0o600)
    with pytest.raises(KeyProblem, match="this is no file"):
        Key.read(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_key_that_belongs_to_somebody_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "seed"
    Key.new().write(path)
    os.chown(path, 12345, 12345)
    with pytest.raises(KeyProblem, match="belongs to somebody else"):
        Key.read(path)
