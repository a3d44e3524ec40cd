"""What a node is to boot, and the loader scripts that say so: golden, whole."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from shoal_identity import tokens
from shoal_identity.keys import Key
from shoal_identity.tokens import BootToken
from shoal_model.records import Cluster, ImageManifest, ImageRelease, Node
from shoal_model.resolve import Snapshot
from shoal_tftp import scripts
from shoal_tftp.plan import COMMAND_LINE_LIMIT, Plan, Refusal, decide, has_own_config, unprovable
from shoal_tftp.proof import Issuer

AT = datetime(2026, 11, 20, 6, 0, 0, tzinfo=UTC)
BOOT = "0123456789abcdef"
Json = object
BASE = "http://10.77.0.1:8080"
SQUASHFS = "a" * 64
ISSUER = Issuer(Key.from_seed("SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY"), "f" * 64)
TOKEN = tokens.mint(BootToken("n001", "52:54:00:77:00:11", "10.77.0.11", BOOT, 1795154400 + 1800), ISSUER.key)
INFINIBAND = "80:00:02:08:fe:80:00:00:00:00:00:00:00:02:c9:03:00:0a:6b:01"


def manifest(image: str = "compute") -> ImageManifest:
    """A manifest whose files are named by their first letter."""
    blob = {"sha256": "0" * 64, "size": 1}
    return ImageManifest.model_validate(
        {
            "image": image,
            "flavor": "bookworm",
            "version": "1.0",
            "identity": "1" * 64,
            "content": "2" * 64,
            "modules": [],
            "kernel_version": "6.1.0-25-amd64",
            "squashfs": {"sha256": SQUASHFS, "size": 100},
            "kernel": blob | {"sha256": "b" * 64},
            "initrd": blob | {"sha256": "c" * 64},
            "blocks": ["d" * 64],
        }
    )


def snapshot(changes: dict[str, Json] | None = None, *, released: bool = True) -> Snapshot:
    """A small cluster; `changes` are fields of node n001, or sections of the document by name."""
    changes = changes or {}
    sections: dict[str, Json] = {
        "networks": {"boot": {"cidr": "10.77.0.0/24", "head": "10.77.0.1", "boot": True}},
        "images": {"compute": {"flavor": "bookworm", "version": "1.0"}},
        "templates": {"compute": {"image": "compute", "boot": {"parameters": "console=ttyS0 quiet"}}},
    }
    node: dict[str, Json] = {"mac": "52:54:00:77:00:11", "address": "10.77.0.11", "template": "compute"}
    for name, value in changes.items():
        (sections if name in sections else node)[name] = value
    release = ImageRelease(manifest=manifest(), built=AT)
    cluster = Cluster.model_validate({**sections, "nodes": {"n001": node}})
    return Snapshot(cluster, {"compute": release} if released else {}, {})


def plan(issuer: Issuer | None = None, /, **changes: Json) -> Plan:
    decided = decide(snapshot(changes), "n001", issuer)
    assert isinstance(decided, Plan), decided
    return decided


def refusal(**changes: Json) -> str:
    decided = decide(snapshot(changes), "n001")
    assert isinstance(decided, Refusal), decided
    assert decided.node == "n001"
    return decided.reason


PXELINUX = f"""\
# Shoal: node n001, boot 0123456789abcdef
DEFAULT shoal
PROMPT 0
TIMEOUT 50
TOTALTIMEOUT 600
SAY Shoal: n001 boots image compute, kernel 6.1.0-25-amd64, boot 0123456789abcdef
LABEL shoal
  LINUX shoal/images/{SQUASHFS}/kernel
  INITRD shoal/images/{SQUASHFS}/initrd
  APPEND shoal.nats=nats://10.77.0.1:4222 shoal.node=n001 shoal.boot=0123456789abcdef shoal.time=1795154400 \
ip=10.77.0.11:::255.255.255.0:n001:: BOOTIF=01-52-54-00-77-00-11 console=ttyS0 quiet
"""

IPXE = f"""\
#!ipxe
# Shoal: node n001, boot 0123456789abcdef
imgfree
echo Shoal: n001 boots image compute, kernel 6.1.0-25-amd64, boot 0123456789abcdef
kernel --name kernel http://10.77.0.1:8080/shoal/images/{SQUASHFS}/kernel initrd=initrd \
shoal.nats=nats://10.77.0.1:4222 shoal.node=n001 shoal.boot=0123456789abcdef shoal.time=1795154400 \
ip=10.77.0.11:::255.255.255.0:n001:: BOOTIF=01-52-54-00-77-00-11 console=ttyS0 quiet || goto failed
initrd --name initrd http://10.77.0.1:8080/shoal/images/{SQUASHFS}/initrd || goto failed
boot || goto failed
:failed
echo Shoal: that failed; trying again in 12 seconds
sleep 12
chain --replace --autofree http://10.77.0.1:8080/boot.ipxe || goto failed
"""

PROVEN_PXELINUX = f"""\
# Shoal: node n001, boot 0123456789abcdef
DEFAULT shoal
PROMPT 0
TIMEOUT 50
TOTALTIMEOUT 600
SAY Shoal: n001 boots image compute, kernel 6.1.0-25-amd64, boot 0123456789abcdef
LABEL shoal
  LINUX shoal/images/{SQUASHFS}/kernel
  INITRD shoal/images/{SQUASHFS}/initrd
  APPEND shoal.nats=tls://10.77.0.1:4222 shoal.node=n001 shoal.boot=0123456789abcdef shoal.time=1795154400 \
shoal.token={TOKEN} shoal.ca={ISSUER.ca} \
ip=10.77.0.11:::255.255.255.0:n001:: BOOTIF=01-52-54-00-77-00-11 console=ttyS0 quiet
"""

PROVEN_IPXE_KERNEL = f"""\
kernel --name kernel http://10.77.0.1:8080/shoal/images/{SQUASHFS}/kernel initrd=initrd \
shoal.nats=tls://10.77.0.1:4222 shoal.node=n001 shoal.boot=0123456789abcdef shoal.time=1795154400 \
shoal.token={TOKEN} shoal.ca={ISSUER.ca} \
ip=10.77.0.11:::255.255.255.0:n001:: BOOTIF=01-52-54-00-77-00-11 console=ttyS0 quiet || goto failed
"""

PXELINUX_REFUSAL = """\
# Shoal: no boot
DEFAULT again
PROMPT 1
TIMEOUT 300
TOTALTIMEOUT 3000
SAY Shoal: n001 cannot boot: image compute has no release yet: its build runs,
SAY Shoal: waits or failed; follow it with `shoal image build compute --wait`;
SAY Shoal: this machine starts over in 30 seconds
LABEL again
  COM32 reboot.c32
"""

IPXE_REFUSAL = """\
#!ipxe
:again
echo Shoal: this machine cannot boot: no node has the address 10.77.0.99: register
echo Shoal: it with `shoal node add`; asking again in 22 seconds
sleep 22
chain --replace --autofree http://10.77.0.1:8080/boot.ipxe || goto again
"""


def test_pxelinux_of_a_node() -> None:
    assert scripts.pxelinux(plan(), BOOT, AT) == PXELINUX


def test_ipxe_of_a_node() -> None:
    assert scripts.ipxe(plan(), BOOT, AT, BASE) == IPXE


def test_scripts_of_a_node_that_proves_its_boot() -> None:
    assert scripts.pxelinux(plan(ISSUER), BOOT, AT) == PROVEN_PXELINUX
    proven = scripts.ipxe(plan(ISSUER), BOOT, AT, BASE)
    [kernel] = [line for line in IPXE.splitlines(keepends=True) if line.startswith("kernel ")]
    assert proven == IPXE.replace(kernel, PROVEN_IPXE_KERNEL)


def test_pxelinux_of_a_node_that_cannot_boot() -> None:
    decided = decide(snapshot(released=False), "n001")
    assert isinstance(decided, Refusal)
    assert scripts.pxelinux_refusal(decided) == PXELINUX_REFUSAL


def test_ipxe_of_a_machine_that_nobody_knows() -> None:
    stranger = Refusal(None, "no node has the address 10.77.0.99: register it with `shoal node add`")
    assert scripts.ipxe_refusal(stranger, BOOT, BASE) == IPXE_REFUSAL


def test_a_reason_cannot_become_a_command() -> None:
    evil = Refusal("n001", "image 'x'\nboot evil || exit ${net0/mac} # && ; \x1b[2J é")
    lines = scripts.ipxe_refusal(evil, BOOT, BASE).splitlines()
    echoed = [line for line in lines if line.startswith("echo ")]
    assert not any(c in line for line in echoed for c in "|&#$\x1b\n")
    assert all(
        line.startswith(("SAY Shoal: ", "# ", "DEFAULT", "PROMPT", "TIME", "TOTAL", "LABEL", "  COM32"))
        for line in scripts.pxelinux_refusal(evil).splitlines()
    )


def test_nodes_that_wait_together_do_not_ask_together() -> None:
    pauses = {
        scripts.ipxe(plan(), f"{n:016x}".replace("0" * 8, f"{n:08x}", 1), AT, BASE).split("sleep ")[1].split()[0]
        for n in range(40)
    }
    assert len(pauses) == 8


# --- the command line ---------------------------------------------------------------------------------------------


def test_gateway_name_and_infiniband() -> None:
    line = plan(
        networks={"boot": {"cidr": "10.77.0.0/22", "head": "10.77.0.1", "gateway": "10.77.3.254", "boot": True}},
        name="node-a",
        mac=INFINIBAND,
        boot={"parameters": "  rd.debug  "},
    ).command_line(BOOT, AT)
    assert " ip=10.77.0.11::10.77.3.254:255.255.252.0:node-a:: " in line
    assert line.endswith(f" BOOTIF=20-{INFINIBAND.replace(':', '-')} rd.debug")


def test_a_node_in_another_network_is_served_by_the_head_of_the_boot_network() -> None:
    decided = plan(
        networks={
            "boot": {"cidr": "10.77.0.0/24", "head": "10.77.0.1", "boot": True},
            "far": {"cidr": "10.78.0.0/16", "gateway": "10.78.0.1"},
        },
        network="far",
        address="10.78.1.1",
    )
    assert decided.head == "10.77.0.1"
    assert "ip=10.78.1.1::10.78.0.1:255.255.0.0:n001::" in decided.command_line(BOOT, AT)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"template": None}, "node n001 has no image: set one on the node, its template or globally"),
        ({"image": "other"}, "node n001 uses image 'other', which does not exist"),
        ({"template": "gone"}, "node n001 uses template 'gone', which does not exist"),
        ({"network": "gone"}, "node n001 is in network 'gone', which does not exist"),
        (
            {"networks": {"a": {"cidr": "10.77.0.0/24"}}, "network": "a"},
            "the cluster has no boot network: give one of `networks` the value `boot: true`",
        ),
        ({"boot": {"config": "gone"}}, "host n001 uses boot config 'gone', which does not exist"),
    ],
)
def test_what_is_missing_is_named(changes: dict[str, Json], reason: str) -> None:
    assert refusal(**changes) == reason


def test_no_release() -> None:
    decided = decide(snapshot(released=False), "n001")
    assert isinstance(decided, Refusal)
    assert decided.reason.startswith("image compute has no release yet")


def test_a_command_line_that_the_kernel_would_cut_is_refused_with_its_source() -> None:
    reason = refusal(boot={"parameters": "x" * 1800})
    assert "shorten its boot parameters (from host n001)" in reason
    assert plan(boot={"parameters": "x" * 1600}).parameters == "x" * 1600


# --- what proves a boot ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mac", ["52:54:00:77:00:11", INFINIBAND])
def test_the_token_says_which_boot_of_which_node_and_until_when(mac: str) -> None:
    line = plan(ISSUER, mac=mac).command_line(BOOT, AT)
    token = next(word for word in line.split() if word.startswith("shoal.token=")).removeprefix("shoal.token=")
    expected = BootToken("n001", mac, "10.77.0.11", BOOT, int(AT.timestamp()) + tokens.LIFETIME)
    assert tokens.read(token, [ISSUER.key.public]) == expected


def test_no_parameter_of_the_operator_comes_before_ours() -> None:
    forged = "shoal.nats=tls://10.66.0.1 shoal.token=x shoal.ca=y"
    words = replace(plan(ISSUER), parameters=forged).command_line(BOOT, AT).split()
    first = {name: value for name, _, value in (word.partition("=") for word in reversed(words))}
    assert (first["shoal.nats"], first["shoal.token"], first["shoal.ca"]) == (
        "tls://10.77.0.1:4222",
        TOKEN,
        ISSUER.ca,
    )


@pytest.mark.parametrize("mac", ["52:54:00:77:00:11", INFINIBAND])
def test_the_limit_of_the_command_line_counts_token_and_trust(mac: str) -> None:
    shortest = len(plan(ISSUER, mac=mac, boot={"parameters": "x"}).command_line(BOOT, AT)) - 1
    room = COMMAND_LINE_LIMIT - 192 - shortest
    assert plan(ISSUER, mac=mac, boot={"parameters": "x" * room})
    decided = decide(snapshot({"mac": mac, "boot": {"parameters": "x" * (room + 1)}}), "n001", ISSUER)
    assert isinstance(decided, Refusal)
    assert "shorten its boot parameters (from host n001)" in decided.reason
    assert plan(mac=mac, boot={"parameters": "x" * (room + 1)})


def test_a_token_is_for_the_recorded_address_alone() -> None:
    assert unprovable(plan(ISSUER), "10.77.0.11") is None
    assert unprovable(plan(), "10.78.0.11") is None
    assert unprovable(plan(ISSUER), "10.78.0.11") == (
        "node n001 asks from 10.78.0.11, and boots from 10.77.0.11 (MAC 52:54:00:77:00:11): boot it from that NIC, or "
        "set its `mac` and `address` to those of this one"
    )


def test_a_plan_shows_nobody_its_secrets() -> None:
    assert ISSUER.key.seed not in repr(plan(ISSUER))


@pytest.mark.parametrize("word", ["||", "&&", ";", "#x", "a=${net0/mac}"])
def test_parameters_that_ipxe_would_change_are_refused(word: str) -> None:
    reason = scripts.ipxe_cannot(plan(boot={"parameters": f"quiet {word} x"}))
    assert reason is not None
    assert word in reason


def test_usual_parameters_pass_through_ipxe() -> None:
    assert scripts.ipxe_cannot(plan(boot={"parameters": "a=b;c x#y $z {w} console=ttyS0,115200n8 a||b"})) is None


@pytest.mark.parametrize(
    ("fields", "own"),
    [
        ({}, False),
        ({"template": "compute"}, False),
        ({"properties": {"rack": "1"}}, False),
        ({"boot": {"parameters": "quiet"}}, True),
        ({"boot": {"config": "rescue"}}, True),
        ({"boot": {"style": "roram"}}, True),
        ({"image": "compute"}, True),
    ],
)
def test_which_nodes_have_a_configuration_of_their_own(fields: dict[str, Json], own: bool) -> None:
    node = Node.model_validate({"mac": "52:54:00:77:00:11", "address": "10.77.0.11"} | fields)
    assert has_own_config(node) is own
