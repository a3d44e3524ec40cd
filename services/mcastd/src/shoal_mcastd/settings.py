"""Settings of mcastd: `SHOAL_*` in the environment, or flags of the same names."""

import ipaddress
import re
from pathlib import Path

from pydantic import Field, field_validator

from shoal_service.settings import ListeningSettings


class Settings(ListeningSettings):
    """What mcastd needs to know before it reaches the bus."""

    store: Path | None = Field(None, description="the image store; default: <state>/store")
    interface: str | None = Field(
        None, description="interface that nodes boot from; default: the head's address decides"
    )
    gather: float = Field(15.0, ge=1, le=600, description="seconds to wait for nodes that are booting the same image")
    rate: float = Field(110e6, ge=1e5, description="bytes per second of all sessions together, at most")
    groups: str = Field("239.77.0.0/16", description="IPv4 multicast groups that sessions may use")

    @property
    def image_store(self) -> Path:
        """Where the image store is."""
        return self.store if self.store is not None else self.state / "store"

    @field_validator("interface")
    @classmethod
    def _is_an_interface_name(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[^\s/]{1,15}", value):
            raise ValueError(f"expected the name of a network interface (see `ip link`), got {value!r}")
        return value

    @field_validator("groups")
    @classmethod
    def _is_a_range_of_groups(cls, value: str) -> str:
        network = ipaddress.IPv4Network(value)
        if not network.is_multicast or network.num_addresses < 16:
            raise ValueError(f"expected a range of 16 multicast groups or more, such as 239.77.0.0/16, got {value!r}")
        return str(network)
