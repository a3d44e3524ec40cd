"""The scripts of the loaders, as text. Pure: the golden tests read them whole.

PXELINUX: https://wiki.syslinux.org/wiki/index.php?title=Config. iPXE: https://ipxe.org/scripting.
"""

import re
import textwrap
from datetime import datetime

from shoal_tftp.plan import Plan, Refusal

_RETRY = 5
_ASK_AGAIN = 15
_SPREAD = 8
"""Seconds until a loader tries again, and over how many the nodes of a cluster are spread."""


def pxelinux(plan: Plan, boot: str, at: datetime) -> str:
    """`pxelinux.cfg/…` of a node that can boot. If a file cannot be had, PXELINUX tries again after five seconds."""
    files = f"shoal/images/{plan.manifest.squashfs.sha256}"
    return f"""\
# Shoal: node {plan.node}, boot {boot}
DEFAULT shoal
PROMPT 0
TIMEOUT {_RETRY * 10}
TOTALTIMEOUT 600
SAY {_headline(plan, boot)}
LABEL shoal
  LINUX {files}/kernel
  INITRD {files}/initrd
  APPEND {plan.command_line(boot, at)}
"""


def pxelinux_refusal(refusal: Refusal) -> str:
    """`pxelinux.cfg/…` of a machine that cannot boot: says why, and starts over after half a minute."""
    says = "\n".join(f"SAY {line}" for line in _told(refusal, "this machine starts over in 30 seconds"))
    return f"""\
# Shoal: no boot
DEFAULT again
PROMPT 1
TIMEOUT 300
TOTALTIMEOUT 3000
{says}
LABEL again
  COM32 reboot.c32
"""


def ipxe(plan: Plan, boot: str, at: datetime, base: str) -> str:
    """`boot.ipxe` of a node that can boot; `base` is where this file server is, `http://address:port`."""
    files = f"{base}/shoal/images/{plan.manifest.squashfs.sha256}"
    pause = _RETRY + _place(boot)
    return f"""\
#!ipxe
# Shoal: node {plan.node}, boot {boot}
imgfree
echo {_headline(plan, boot)}
kernel --name kernel {files}/kernel initrd=initrd {plan.command_line(boot, at)} || goto failed
initrd --name initrd {files}/initrd || goto failed
boot || goto failed
:failed
echo Shoal: that failed; trying again in {pause} seconds
sleep {pause}
chain --replace --autofree {base}/boot.ipxe || goto failed
"""


def ipxe_refusal(refusal: Refusal, boot: str, base: str) -> str:
    """`boot.ipxe` of a machine that cannot boot: says why, and asks again."""
    pause = _ASK_AGAIN + _place(boot)
    says = "\n".join(f"echo {line}" for line in _told(refusal, f"asking again in {pause} seconds"))
    return f"""\
#!ipxe
:again
{says}
sleep {pause}
chain --replace --autofree {base}/boot.ipxe || goto again
"""


def ipxe_cannot(plan: Plan) -> str | None:
    """Why iPXE cannot pass on this node's kernel parameters as they are; None: it can.

    iPXE splits a line at white space, cuts it at these words, and expands ${…} (its src/core/exec.c).
    """
    bad = [word for word in plan.parameters.split() if word in ("||", "&&", ";") or word[0] == "#" or "${" in word]
    if not bad:
        return None
    return f"iPXE would not pass on the boot parameter {bad[0]!r} of node {plan.node}: change it, or boot with pxelinux"


def _headline(plan: Plan, boot: str) -> str:
    return f"Shoal: {plan.name} boots image {plan.image}, kernel {_plain(plan.manifest.kernel_version)}, boot {boot}"


def _told(refusal: Refusal, end: str) -> list[str]:
    """Lines of console text. Each begins with the same word, so that no loader takes one for an option."""
    who = "this machine" if refusal.node is None else refusal.node
    text = f"{who} cannot boot: {_plain(refusal.reason)}; {end}"
    return [f"Shoal: {line}" for line in textwrap.wrap(text, 70, break_on_hyphens=False)]


def _plain(text: str) -> str:
    """What every console shows, and no loader takes for more than text."""
    return re.sub(r"[^ -~]|[$#|&]|(?<!\S);(?!\S)", "?", text)


def _place(boot: str) -> int:
    """Where in the spread this boot comes, in seconds: a cluster that waits together must not ask together."""
    return int(boot[:8], 16) % _SPREAD
