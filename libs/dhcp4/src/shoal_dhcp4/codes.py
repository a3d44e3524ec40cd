"""Numbers of the protocol, by the names that the RFCs give them."""

from enum import IntEnum, IntFlag
from typing import Final

SERVER_PORT: Final = 67
CLIENT_PORT: Final = 68

ETHERNET: Final = 1
"""Hardware type of RFC 1700; an address has 6 octets."""
INFINIBAND: Final = 32
"""Hardware type of RFC 4390; an address has 20 octets, which `chaddr` cannot hold."""

BROADCAST_FLAG: Final = 0x8000
"""The one bit of `flags` with a meaning: the client cannot take a unicast yet (RFC 2131, section 2)."""


class Op(IntEnum):
    """Which way a packet travels."""

    REQUEST = 1
    REPLY = 2


class MessageType(IntEnum):
    """Option 53 (RFC 2132, section 9.6)."""

    DISCOVER = 1
    OFFER = 2
    REQUEST = 3
    DECLINE = 4
    ACK = 5
    NAK = 6
    RELEASE = 7
    INFORM = 8


class Option(IntEnum):
    """Option codes that this library or its users speak of; any other code is carried all the same."""

    PAD = 0
    SUBNET_MASK = 1
    ROUTER = 3
    DOMAIN_NAME_SERVER = 6
    HOST_NAME = 12
    DOMAIN_NAME = 15
    BROADCAST_ADDRESS = 28
    VENDOR_SPECIFIC = 43
    REQUESTED_ADDRESS = 50
    LEASE_TIME = 51
    OVERLOAD = 52
    MESSAGE_TYPE = 53
    SERVER_IDENTIFIER = 54
    PARAMETER_REQUEST_LIST = 55
    MESSAGE = 56
    MAXIMUM_MESSAGE_SIZE = 57
    VENDOR_CLASS = 60
    CLIENT_IDENTIFIER = 61
    TFTP_SERVER_NAME = 66
    BOOT_FILE_NAME = 67
    USER_CLASS = 77
    RELAY_AGENT_INFORMATION = 82
    CLIENT_ARCHITECTURE = 93
    CLIENT_MACHINE_IDENTIFIER = 97
    IPXE_ENCAPSULATED = 175
    END = 255


class Overload(IntFlag):
    """Option 52: which header fields hold options (RFC 2132, section 9.3)."""

    FILE = 1
    SNAME = 2


class Architecture(IntEnum):
    """Option 93: IANA's "Processor Architecture Types", begun by RFC 4578, section 2.1.

    RFC 4578 swapped 7 and 9 against what firmware sends; both stand for x86-64 UEFI in the field.
    """

    X86_BIOS = 0
    X86_UEFI = 6
    X64_UEFI = 7
    EBC = 9
    ARM32_UEFI = 10
    ARM64_UEFI = 11
    X64_UEFI_HTTP = 16
    ARM64_UEFI_HTTP = 19
