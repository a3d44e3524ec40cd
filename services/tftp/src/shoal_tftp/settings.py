"""Settings of the boot file server."""

from pathlib import Path

from pydantic import Field

from shoal_service.settings import ListeningSettings


class TftpSettings(ListeningSettings):
    """The boot file server: one virtual tree over TFTP and HTTP, with loader scripts rendered when asked for."""

    tftpboot: Path = Field(Path("/var/lib/tftpboot"), description="directory of the operator's own files")
    store: Path | None = Field(None, description="the image store of this head, in the state directory if not given")
    loaders: list[Path] = Field(
        [Path("/usr/lib/PXELINUX"), Path("/usr/lib/syslinux/modules/bios"), Path("/usr/lib/ipxe")],
        description="directories of boot loaders, in the order in which they are searched",
    )
    boot_key: Path | None = Field(None, description="file with the seed that signs boot tokens")
    transfers: int = Field(1000, ge=1, le=20_000, description="files under way at once, at each door")

    @property
    def image_store(self) -> Path:
        """Where the image store is."""
        return self.store or self.state / "store"
