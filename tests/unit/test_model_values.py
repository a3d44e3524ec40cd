"""Domains, public keys and kernel parameters: what is let through, and how the rest is refused."""

from collections.abc import Callable

import pytest

from shoal_model import values

ED25519 = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILisn/U6bsNtODwxI12g0MR4RCI7zeDzXDkcKHcBQ39w"
ECDSA = (
    "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBAvkR5LjnamxwnqY85XzTIINpmZ0BTIboiteIy1N"
    "wvCJXxXXxMHHeVUbeWir2qo6xE8ABGoDQcBuxA7Vlx6hE68="
)
RSA = (
    "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQDKcrCVooxj0UCofPHQ1B4DgIefFE1nU4cRVsClPL9UZZ8S12EI3NIE2M75OrfG5lTEE/rmQj0u"
    "N6Y0Ya27uoWmKBLFU4hzovWVjRljQnFbsUVBvXYEvmVTDcWLTF7ZWLvLDRW9P6YdlWUVZBQp5qa3b0+M/NQWSqlHf9EGl1iWmQ=="
)

RIGHT: list[tuple[Callable[[str], str], str]] = [
    (values.domain, "lab"),
    (values.domain, "Cluster-1.example.org"),
    (values.domain, "9.example"),
    (values.domain, ".".join(["d" * 63] * 3)),
    (values.public_key, ED25519),
    (values.public_key, f"{ECDSA} ada@desk of the lab"),
    (values.public_key, RSA),
    (values.public_key, f'from="10.0.0.0/8",command="echo \\"two words\\"" {ED25519} ada'),
    (values.kernel_parameters, ""),
    (values.kernel_parameters, "console=ttyS0 quiet debug ip6=off shoal early-shell"),
    (values.kernel_parameters, 'dyndbg="file a.c +p ip=x" zip=1 BOOTIFS=2'),
]

WRONG: list[tuple[Callable[[str], str], str, str]] = [
    *((values.domain, text, "is not a domain") for text in ("", "not a domain!", "a..b", "a.", ".a", "-a.b", "a_b.c")),
    (values.domain, "d" * 64, "is not a domain"),
    (values.domain, ".".join(["d" * 63] * 4), "253 characters at most"),
    *(
        (values.public_key, text, "is not an OpenSSH public key")
        for text in ("", "garbage", "ssh-ed25519", "ssh-ed25519 AAAA", f"a b {ED25519}", "# a comment")
    ),
    (values.public_key, ED25519[:-8], "is not an OpenSSH public key"),
    (values.public_key, ED25519.replace("ssh-ed25519", "ssh-rsa"), "is not an OpenSSH public key"),
    (values.public_key, ED25519.split()[1], "is not an OpenSSH public key"),
    (values.public_key, "-----BEGIN OPENSSH PRIVATE KEY-----", "is not an OpenSSH public key"),
    (values.kernel_parameters, "quiet ip=dhcp", "the kernel parameter 'ip=dhcp' is one that Shoal sets"),
    (values.kernel_parameters, "shoal.node=n002", "'shoal.node=n002'"),
    (values.kernel_parameters, 'a "shoal.nats=nats://x"', "shoal.nats"),
    (values.kernel_parameters, "BOOTIF=01-52-54-00-77-00-11", "'BOOTIF="),
    (values.kernel_parameters, "initrd=/mine", "'initrd=/mine'"),
]


@pytest.mark.parametrize(("check", "text"), RIGHT)
def test_what_fits_stays_as_it_is(check: Callable[[str], str], text: str) -> None:
    assert check(text) == text


@pytest.mark.parametrize(("check", "text", "message"), WRONG)
def test_what_does_not_fit_is_refused(check: Callable[[str], str], text: str, message: str) -> None:
    with pytest.raises(ValueError, match=r"expected|sets for each node") as caught:
        check(text)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 400
