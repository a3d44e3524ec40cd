"""The kernel's modules in the initrd: what it takes to reach an image, whatever the machine."""

from collections.abc import Iterable, Mapping

from shoal_image_builder.layers.entry import LayerError

ESSENTIAL = ("loop", "squashfs", "overlay", "af_packet")
"""Without these no node boots."""
HARDWARE = (
    # virtual machines
    *("virtio_pci", "virtio_mmio", "virtio_net", "virtio_blk", "virtio_scsi", "vmxnet3", "hv_netvsc", "ena", "gve"),
    # Ethernet of every speed
    *("e100", "e1000", "e1000e", "igb", "igc", "ixgbe", "i40e", "ice", "bnxt_en", "bnx2", "bnx2x", "tg3", "r8169"),
    *("8139cp", "8139too", "atlantic", "mlx4_en", "mlx5_core", "qede", "be2net", "enic", "sfc", "cxgb4", "nfp"),
    *("sky2", "forcedeth"),
    # networks on top, InfiniBand, and NFS below the image
    *("8021q", "bonding", "ib_ipoib", "mlx4_ib", "mlx5_ib", "nfsv3", "nfsv4"),
    # disks that may hold a cached image, and the keyboard of a rescue shell
    *("ahci", "nvme", "sd_mod", "xhci_pci", "ehci_pci", "uhci_hcd", "usbhid", "hid_generic", "ext4"),
    # checksums that file systems and drivers ask for by name, not as a dependency
    *("crc32c_generic", "crc32c_intel"),
)
"""What a machine may need, as far as its kernel has it."""
INDEX_FILES = ("modules.builtin", "modules.builtin.modinfo", "modules.order")


def closure(modules_dep: str, modules_builtin: str) -> list[str]:
    """Paths (relative to the kernel's directory, sorted) of the modules for an initrd and of all that they need.

    `modules_dep` and `modules_builtin` are depmod's files of these names. LayerError if the kernel has an essential
    one neither as a module nor built in.
    """
    needs = {path: rest.split() for path, _, rest in (line.partition(":") for line in modules_dep.splitlines())}
    by_name = {_name(path): path for path in needs}
    builtin = {_name(path) for path in modules_builtin.split()}
    missing = sorted(name for name in ESSENTIAL if name not in by_name and name not in builtin)
    if missing:
        raise LayerError(f"this kernel has no {', '.join(missing)}, without which no node boots")
    return sorted(_with_needs((by_name[name] for name in (*ESSENTIAL, *HARDWARE) if name in by_name), needs))


def _with_needs(paths: Iterable[str], needs: Mapping[str, list[str]]) -> set[str]:
    found: set[str] = set()
    for path in paths:
        found |= {path, *needs[path]}  # modules.dep lists what a module needs in full, not one step
    return found


def _name(path: str) -> str:
    return path.rpartition("/")[2].partition(".")[0].replace("-", "_")
