"""The two ways in which the protocol can be broken, told apart: by us, or by the other side."""


class ProtocolError(Exception):
    """The base of both."""


class LocalProtocolError(ProtocolError):
    """Our own code asked for a packet that cannot exist. A bug on this side."""


class RemoteProtocolError(ProtocolError):
    """What came from the network is no sound DHCP packet. The text names the field, and what was expected of it."""
