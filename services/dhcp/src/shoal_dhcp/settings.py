"""Settings of dhcp: `SHOAL_*` in the environment, or flags of the same names."""

import re

from pydantic import Field, field_validator

from shoal_service.settings import ServiceSettings


class Settings(ServiceSettings):
    """What dhcp needs to know before it reaches the bus."""

    interface: str = Field(description="the network interface that nodes boot from, for instance eth1")

    @field_validator("interface")
    @classmethod
    def _is_an_interface_name(cls, value: str) -> str:
        if not re.fullmatch(r"[^\s/]{1,15}", value):
            raise ValueError(f"{value!r} is no name of a network interface: see `ip link` for those of this machine")
        return value
