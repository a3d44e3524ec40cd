"""Settings of auth."""

from pathlib import Path

from pydantic import Field, field_validator

from shoal_identity.keys import is_public
from shoal_service.settings import ServiceSettings


class AuthSettings(ServiceSettings):
    """The auth callout: proves nodes, and hands out their permissions."""

    callout_key: Path | None = Field(None, description="file with the seed of the user in account AUTH")
    system_key: Path | None = Field(
        None, description="file with the seed of the user in account SYS, to cut connections"
    )
    issuer_key: Path | None = Field(None, description="file with the seed that signs permissions (an account's, `SA…`)")
    boot_keys: list[str] = Field([], description="public keys of the boot file servers whose tokens count")
    lifetime: int = Field(3600, ge=10, le=7 * 86400, description="seconds after which a node proves its key again")

    @field_validator("boot_keys")
    @classmethod
    def _boot_keys_are_public(cls, keys: list[str]) -> list[str]:
        for number, key in enumerate(keys, 1):
            if not (key.startswith("U") and is_public(key)):
                raise ValueError(f"number {number} is no public key (`U…`); what we got is not shown: it may be a seed")
        return keys
