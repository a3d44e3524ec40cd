"""The kernel command line: what is read from it, and what each mistake is called."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal_execd.cmdline import Address, CommandLineError, flag, parse, secrets, words

TOKEN = "AbCdEf-_0123456789" * 4
CA = "0a" * 32
GOOD = (
    "BOOT_IMAGE=shoal/images/compute/kernel shoal.nats=tls://10.77.0.1:4222 shoal.node=n001 "
    f"shoal.boot=0123456789abcdef shoal.token={TOKEN} shoal.ca={CA} shoal.time=1763600000 "
    "ip=10.77.0.11::10.77.0.254:255.255.255.0:login:: BOOTIF=01-52-54-00-77-00-11 console=ttyS0\n"
)


def test_a_rendered_command_line() -> None:
    line = parse(GOOD)
    assert line.nats == ("tls://10.77.0.1:4222",)
    assert line.head == "10.77.0.1"
    assert (line.token, line.ca) == (TOKEN, CA)
    assert (line.node, line.boot, line.time) == ("n001", "0123456789abcdef", 1763600000)
    assert line.ip == Address("10.77.0.11", 24, "10.77.0.254", "login")
    assert line.mac == "52:54:00:77:00:11"


def test_lists_and_what_may_be_left_out() -> None:
    text = GOOD.replace(":10.77.0.254:", "::").replace("shoal.time=1763600000 ", "")
    text = text.replace("tls://10.77.0.1:4222", "tls://10.77.0.1:4222,tls://10.77.0.2")
    line = parse(text)
    assert line.ip.gateway is None
    assert line.time is None
    assert line.nats == ("tls://10.77.0.1:4222", "tls://10.77.0.2")
    assert line.heads == ("10.77.0.1", "10.77.0.2")


def test_a_bus_without_tls_is_shown_no_token() -> None:
    plain = GOOD.replace("tls://", "nats://")
    assert (parse(plain).token, parse(plain).ca) == (None, None)
    bare = plain.replace(f"shoal.token={TOKEN} shoal.ca={CA} ", "")
    assert parse(bare) == parse(plain)


def test_the_token_is_not_shown() -> None:
    assert TOKEN not in repr(parse(GOOD))
    assert secrets(f"{GOOD.strip()} shoal.token=another-boot-token shoal.token=1\n") == [TOKEN, "another-boot-token"]
    assert secrets("") == []


@pytest.mark.parametrize("token", [TOKEN + "=", TOKEN + "!", "a" * 401])
def test_a_malformed_token_is_not_shown_either(token: str) -> None:
    with pytest.raises(CommandLineError, match=r"shoal\.token=") as caught:
        parse(GOOD.replace(TOKEN, token))
    assert token not in str(caught.value)
    assert TOKEN not in str(caught.value)


@pytest.mark.parametrize(
    "later",
    [
        "shoal.nats=nats://10.66.0.1",
        f"shoal.ca={'0b' * 32}",
        "shoal.token=another",
        "shoal.node=n002",
        '"shoal.boot=f"',
        "shoal.time=1",
        "shoal.time=never",
        "ip=dhcp",
        "ip=10.77.0.12::10.77.0.254:255.255.255.0:other::",
        "BOOTIF=01-52-54-00-77-00-12",
        "BOOTIF",
    ],
)
def test_what_the_boot_file_server_said_first_counts(later: str) -> None:
    assert parse(f"{GOOD.strip()} {later}\n") == parse(GOOD)


def test_a_flag_is_seen_however_broken_the_rest_is() -> None:
    assert flag("nonsense debug", "debug")
    assert flag(GOOD.strip() + " early-shell", "early-shell")
    assert not flag("debugger xdebug=1 'debug '", "early-shell")


def test_double_quotes_keep_spaces_together() -> None:
    assert words('a="b c" d "e f=g"') == ["a=b c", "d", "e f=g"]


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("shoal.nats=tls://10.77.0.1:4222", "", "shoal.nats="),
        ("tls://10.77.0.1:4222", "http://10.77.0.1", "shoal.nats="),
        ("tls://10.77.0.1:4222", "tls://10.77.0.1:99999", "shoal.nats="),
        ("tls://10.77.0.1:4222", "tls://10.77.0.1,nats://10.77.0.2", "shoal.nats= mixes"),
        ("tls://10.77.0.1:4222", ",", "shoal.nats="),
        (f"shoal.token={TOKEN}", "", "has no shoal.token="),
        (f"shoal.ca={CA}", "", "has no shoal.ca="),
        (CA, CA[:-1], "shoal.ca="),
        (CA, CA.upper(), "shoal.ca="),
        ("shoal.node=n001", "shoal.node=../n001", "shoal.node="),
        ("shoal.node=n001", "", "shoal.node="),
        ("shoal.boot=0123456789abcdef", "shoal.boot=xyz", "shoal.boot="),
        ("shoal.time=1763600000", "shoal.time=-5", "shoal.time="),
        ("ip=10.77.0.11::", "ip=10.77.0::", "ip="),
        ("255.255.255.0", "255.0.255.0", "ip="),
        ("ip=10.77.0.11::10.77.0.254:255.255.255.0:login::", "ip=dhcp", "ip="),
        ("BOOTIF=01-52-54-00-77-00-11", "BOOTIF=52:54:00:77:00:11", "BOOTIF="),
        ("BOOTIF=01-52-54-00-77-00-11", "BOOTIF=01-52-54-00-77-00", "BOOTIF="),
        ("BOOTIF=01-52-54-00-77-00-11", "", "BOOTIF="),
    ],
)
def test_each_mistake_is_named(old: str, new: str, named: str) -> None:
    with pytest.raises(CommandLineError, match=named.replace(".", r"\.")):
        parse(GOOD.replace(old, new))


@given(st.text())
def test_nothing_but_a_clear_error_comes_of_garbage(text: str) -> None:
    with pytest.raises(CommandLineError):
        parse(text)
