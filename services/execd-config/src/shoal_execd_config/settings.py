"""Settings of execd-config: `SHOAL_*` in the environment, or flags of the same names."""

from pathlib import Path

from pydantic import Field

from shoal_service.settings import ListeningSettings


class Settings(ListeningSettings):
    """What execd-config needs to know before it reaches the bus."""

    store: Path | None = Field(None, description="image store of this head, if it has one (default: STATE/store)")

    @property
    def image_store(self) -> Path:
        """The image store's directory, whether it is there or not."""
        return self.store or self.state / "store"
