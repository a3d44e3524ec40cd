"""The records: what an operator configures, and what is published about images and trees.

A record's fields are the same in YAML, on the command line and on the bus. Its key in bucket `records` is
`<kind>.<name>`. Models are frozen and refuse unknown fields, so a misspelt field is an error that names it.
"""

import ipaddress
import json
import re
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from shoal_model import names, values


def _single_line(text: str) -> str:
    if any(ord(c) < 0x20 or ord(c) == 0x7F for c in text):
        raise ValueError("control characters are not allowed here")
    return text


def _ipv4(text: str) -> str:
    return str(ipaddress.IPv4Address(text))


def _ipv4_network(text: str) -> str:
    return str(ipaddress.IPv4Network(text))


def _size(text: str) -> str:
    if not re.fullmatch(r"[1-9][0-9]*(?:[kmg]|%)?", text) or (text.endswith("%") and int(text[:-1]) > 100):
        raise ValueError(f"{text!r} is not a tmpfs size: write bytes, or a number with k, m, g or % (of RAM)")
    return text


Name = Annotated[str, AfterValidator(names.name)]
MacAddress = Annotated[str, AfterValidator(names.mac)]
Sha256 = Annotated[str, AfterValidator(names.digest)]
Ipv4 = Annotated[str, AfterValidator(_ipv4)]
Ipv4Network = Annotated[str, AfterValidator(_ipv4_network)]
Line = Annotated[str, Field(max_length=2000), AfterValidator(_single_line)]
Domain = Annotated[Line, AfterValidator(values.domain)]
PublicKey = Annotated[Line, AfterValidator(values.public_key)]
KernelParameters = Annotated[Line, AfterValidator(values.kernel_parameters)]
TmpfsSize = Annotated[str, AfterValidator(_size)]
Version = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+){0,2}$")]


class Record(BaseModel):
    """A frozen model without unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Kind(StrEnum):
    """What a record is; the first token of its key."""

    GLOBAL = "global"
    NETWORK = "network"
    IMAGE = "image"
    BOOT_CONFIG = "boot-config"
    PROPERTY = "property"
    ROOTFS = "rootfs"
    TEMPLATE = "template"
    NODE = "node"
    IMAGE_RELEASE = "image-release"
    ROOTFS_RELEASE = "rootfs-release"


class Loader(StrEnum):
    """How kernel and initrd reach a node: by what its firmware can do, or always one way."""

    AUTO = "auto"
    PXELINUX = "pxelinux"
    IPXE = "ipxe"


class Admission(StrEnum):
    """When a node that boots is let in: while its boot is expected, or whenever somebody boots in its name."""

    ARMED = "armed"
    ALWAYS = "always"


class BootStyle(StrEnum):
    """Where the root file system lives."""

    RORAM = "roram"


class BootSettings(Record):
    """How a node boots, apart from what it boots."""

    config: Name | None = Field(None, description="a boot config whose values lie below the ones given here")
    parameters: KernelParameters | None = Field(None, description="kernel parameters, added behind Shoal's own")
    loader: Loader | None = Field(None, description="`auto` (by what the firmware can do), `pxelinux` or `ipxe`")
    style: BootStyle | None = Field(None, description="`roram`: the image read-only in RAM, a tmpfs over it")
    root_size: TmpfsSize | None = Field(None, description="tmpfs for run-time changes of the root; default 50%")
    tmp_size: TmpfsSize | None = Field(None, description="tmpfs at /tmp; default 25%")


class Settings(Record):
    """What may be set on a node, on its host template and globally; the nearest to the node wins (see `resolve`)."""

    image: Name | None = Field(None, description="the image it boots")
    boot: BootSettings = BootSettings()
    admission: Admission | None = Field(
        None,
        description="`armed` (default): only an expected boot is let in (`shoal boot arm`, an announced reboot); "
        "`always`: whoever boots at the node's address with its MAC is let in and gets its secrets",
    )
    rootfs: list[Name] | None = Field(None, description="Root FS customizations, applied in this order")
    authorized_keys: list[PublicKey] | None = Field(None, description="OpenSSH public keys that may log in as root")
    properties: dict[Name, Line] = Field(
        default_factory=dict, description="generic properties, each defined under `properties`"
    )


class Network(Record):
    """An IPv4 network. Exactly one of a cluster's networks is the boot network."""

    cidr: Ipv4Network = Field(description="for instance `10.77.0.0/24`")
    boot: bool = Field(False, description="whether nodes boot from this network; exactly one is")
    head: Ipv4 | None = Field(None, description="address of the head in this network; required for the boot network")
    gateway: Ipv4 | None = Field(None, description="default route of nodes")
    nameservers: list[Ipv4] = Field(default_factory=list, max_length=3, description="at most three")
    domain: Domain | None = Field(None, description="domain of the nodes' names")
    description: Line | None = None

    @model_validator(mode="after")
    def _addresses_lie_inside(self) -> Self:
        network = ipaddress.IPv4Network(self.cidr)
        for field in ("head", "gateway"):
            value = getattr(self, field)
            if value is not None and not usable(value, network):
                raise ValueError(f"{field} {value} is not a host address of {self.cidr}")
        if self.boot and self.head is None:
            raise ValueError("the boot network needs `head`: the address at which nodes reach this head")
        return self


class Image(Record):
    """A node image as an operator defines it; what was built from it is an `ImageRelease`."""

    flavor: Name = Field(description="edge platform; `bookworm` is what there is")
    version: Version = Field(description="of the modules: `x.y.z`, or `x.y` or `x` for the newest of these")
    modules: list[Name] = Field(
        default_factory=lambda: ["core"], min_length=1, description="`core` is always among them; the default"
    )
    chroot: Name | None = Field(None, description="reserved: there are no chroots yet")
    description: Line | None = None

    @model_validator(mode="after")
    def _core_is_among_the_modules(self) -> Self:
        if "core" not in self.modules:
            raise ValueError("`modules` must contain core: every image is built on it")
        if len(set(self.modules)) != len(self.modules):
            raise ValueError("`modules` names a module twice")
        return self


class BootConfig(Record):
    """A named way to boot, to be shared by nodes and templates through `boot.config`."""

    image: Name | None = Field(None, description="the image it boots")
    parameters: KernelParameters | None = Field(None, description="as `boot.parameters` of a node")
    loader: Loader | None = Field(None, description="as `boot.loader` of a node")
    description: Line | None = None


class Property(Record):
    """The definition of a generic property: its meaning and, where given, the values it may have."""

    description: Line | None = None
    values: list[Line] | None = Field(None, description="allowed values; none given: any")


class Rootfs(Record):
    """A Root FS customization: the tree `/var/lib/shoal/root-fs/<name>` of the head."""

    description: Line | None = None


class Nic(Record):
    """A network interface beside the one that a node boots from."""

    mac: MacAddress
    network: Name = Field(description="the interface gets the network's name on the node")
    address: Ipv4


class Template(Settings):
    """A host template."""

    description: Line | None = None


class Global(Settings):
    """The global template: values for every node that nothing nearer sets."""


class Node(Settings):
    """A machine. Its key is its id, which never changes; `name` is its host name, by default the id."""

    mac: MacAddress = Field(description="of the NIC it boots from")
    address: Ipv4 = Field(description="of that NIC")
    network: Name | None = Field(None, description="the network of `address`; default: the boot network")
    name: Name | None = Field(None, description="host name; default: the id")
    template: Name | None = Field(None, description="host template")
    nics: list[Nic] = Field(default_factory=list, description="further NICs; see Nic")
    description: Line | None = None


class StoredFile(Record):
    """A file in the image store: its SHA-256 and its length in bytes."""

    sha256: Sha256
    size: int = Field(ge=0)


class ModuleVersion(Record):
    """A module as it went into an image."""

    name: Name
    version: str
    sha256: Sha256


class Geometry(Record):
    """How an image is cut for distribution: blocks of `block_symbols` symbols of `symbol_size` bytes."""

    symbol_size: int = Field(1448, ge=64, le=65000)
    block_symbols: int = Field(1024, ge=1, le=65535)

    @property
    def block_size(self) -> int:
        """Bytes of every block but the last, which may be shorter."""
        return self.symbol_size * self.block_symbols


class ImageManifest(Record):
    """What an image is, to the last byte. It stands beside its files in the store and travels to the nodes, signed
    as `body` gives it: so fields are only ever added, optional and None by default.
    """

    image: Name
    flavor: Name
    version: str
    identity: Sha256 = Field(description="hash of everything the image was made from, tools included")
    content: Sha256 = Field(description="hash of the merged file list, which no compressor changes")
    modules: list[ModuleVersion]
    kernel_version: str
    squashfs: StoredFile
    kernel: StoredFile
    initrd: StoredFile
    geometry: Geometry = Geometry()
    blocks: list[Sha256] = Field(description="SHA-256 of each block of the squashfs, in order")

    def body(self) -> bytes:
        """The bytes that are signed: JSON without what is None, its keys in order."""
        data = self.model_dump(mode="json", exclude_none=True)
        return json.dumps(data, sort_keys=True, separators=(",", ":")).encode()


class Signature(Record):
    """Who stands behind a manifest: the public key of an image builder (`U…`), and its Ed25519 signature in hex."""

    key: Annotated[str, Field(pattern=r"^U[A-Z2-7]{55}$")]
    value: Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]


class ImageRelease(Record):
    """The build of an image that nodes get now."""

    manifest: ImageManifest
    built: AwareDatetime
    signature: Signature | None = Field(None, description="over `manifest`; a node refuses an image without it")

    @property
    def digest(self) -> str:
        """The digest under which the image store holds this build: that of its squashfs."""
        return self.manifest.squashfs.sha256


class RootfsRelease(Record):
    """The committed content of a Root FS customization: a tar archive in the store."""

    archive: StoredFile
    files: int = Field(ge=0, description="number of entries")
    committed: AwareDatetime


RECORD_TYPES: dict[Kind, type[Record]] = {
    Kind.GLOBAL: Global,
    Kind.NETWORK: Network,
    Kind.IMAGE: Image,
    Kind.BOOT_CONFIG: BootConfig,
    Kind.PROPERTY: Property,
    Kind.ROOTFS: Rootfs,
    Kind.TEMPLATE: Template,
    Kind.NODE: Node,
    Kind.IMAGE_RELEASE: ImageRelease,
    Kind.ROOTFS_RELEASE: RootfsRelease,
}
GLOBAL_NAME = "default"
"""The one name under which the global template is kept."""


class Cluster(Record):
    """The whole configuration: the document of `shoal apply` and `shoal export`, field for field."""

    networks: dict[Name, Network] = Field(default_factory=dict)
    images: dict[Name, Image] = Field(default_factory=dict)
    boot_configs: dict[Name, BootConfig] = Field(default_factory=dict)
    properties: dict[Name, Property] = Field(default_factory=dict)
    rootfs: dict[Name, Rootfs] = Field(default_factory=dict)
    templates: dict[Name, Template] = Field(default_factory=dict)
    nodes: dict[Name, Node] = Field(default_factory=dict)
    global_: Global = Field(default_factory=Global, alias="global")


SECTIONS: dict[Kind, str] = {
    Kind.NETWORK: "networks",
    Kind.IMAGE: "images",
    Kind.BOOT_CONFIG: "boot_configs",
    Kind.PROPERTY: "properties",
    Kind.ROOTFS: "rootfs",
    Kind.TEMPLATE: "templates",
    Kind.NODE: "nodes",
}
"""The section of a `Cluster` (and of its YAML) in which each configurable kind stands; `global` stands alone."""


def usable(address: str, network: ipaddress.IPv4Network) -> bool:
    """Whether a host may have `address` in `network`: inside it, and neither its network nor its broadcast address."""
    ip = ipaddress.IPv4Address(address)
    edges = () if network.prefixlen >= 31 else (network.network_address, network.broadcast_address)
    return ip in network and ip not in edges


def record_key(kind: Kind, name: str) -> str:
    """The key of a record in bucket `records`: `node.n001`."""
    return f"{kind}.{names.name(name)}"


def parse_key(key: str) -> tuple[Kind, str]:
    """The kind and name of a record key; ValueError for any other key of the bucket (`head`, `claim.…`)."""
    kind, _, name = key.partition(".")
    return Kind(kind), name


def compact(record: BaseModel) -> dict[str, Any]:
    """A record as plain data without the fields that were left at their defaults: what YAML and the store hold."""
    return record.model_dump(mode="json", by_alias=True, exclude_defaults=True)
