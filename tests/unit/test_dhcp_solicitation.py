"""Router solicitations byte by byte, and the advertisement that offers nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal_dhcp.solicitation import ADVERTISEMENT, solicitor

SOLICITATION = "8500 0000 00000000"
MAC = "525400770011"


@pytest.mark.parametrize(
    ("message", "mac"),
    [
        (SOLICITATION + "0101" + MAC, MAC),
        (SOLICITATION + "0e01000102030405" + "0101" + MAC, MAC),
        (SOLICITATION + "0e0200010203040506070809 0a0b0c0d" + "0101" + MAC, MAC),
        (SOLICITATION, None),
        (SOLICITATION + "01", None),
        (SOLICITATION + "0100" + MAC, None),
        (SOLICITATION + "0102" + MAC, None),
        (SOLICITATION + "0102" + MAC + "0000000000000000", None),
        (SOLICITATION + "0e000000000000000101" + MAC, None),
        ("8600 0000 00000000 0101" + MAC, None),
        ("8501 0000 00000000 0101" + MAC, None),
        ("8500", None),
        ("", None),
    ],
)
def test_who_solicits(message: str, mac: str | None) -> None:
    found = solicitor(bytes.fromhex(message))
    assert (None if found is None else found.hex()) == mac


@given(st.binary(max_size=64).map(lambda rest: bytes.fromhex(SOLICITATION) + rest))
def test_any_bytes_are_read_to_an_end(message: bytes) -> None:
    found = solicitor(message)
    assert found is None or len(found) == 6


def test_the_advertisement_offers_nothing() -> None:
    # type 134, code 0, checksum; hop limit, flags, router lifetime; reachable time; retransmission timer: unspecified
    assert bytes.fromhex("8600 0000 00 00 0000 00000000 00000000") == ADVERTISEMENT
