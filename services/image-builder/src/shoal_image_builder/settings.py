"""Settings of image-builder: `SHOAL_*` in the environment, or flags of the same names."""

from pathlib import Path

from pydantic import Field

from shoal_image_builder.images.assemble import Places
from shoal_service.settings import ServiceSettings
from shoal_service.store import BlobStore


class Settings(ServiceSettings):
    """Assembles images from modules, takes builds from the work queue, packs Root FS customizations.

    Two verbs run once and use the network, as root: `build-module NAME --modules DIR`, `build-runtime --modules DIR`.
    """

    modules: Path | None = Field(None, description="directory of the module packages; default: <state>/modules")
    store: Path | None = Field(None, description="the image store of this head; default: <state>/store")
    rootfs: Path | None = Field(None, description="directory of the Root FS customizations; default: <state>/root-fs")
    images: Path = Field(Path("/etc/shoal/images"), description="files to copy: {common,<image>}/copy/ below this")
    shadow: Path = Field(Path("/etc/shadow"), description="where root's password for images comes from")
    image_key: Path | None = Field(None, description="file with the seed that signs image manifests")
    keep: int = Field(3, ge=1, le=1000, description="builds of each image that stay in the store")

    @property
    def image_store(self) -> Path:
        """Where the image store is."""
        return self.store or self.state / "store"

    @property
    def trees(self) -> Path:
        """Where the Root FS customizations are."""
        return self.rootfs or self.state / "root-fs"

    def places(self) -> Places:
        """Where an assembly finds and puts things."""
        return Places(self.modules or self.state / "modules", self.images, self.shadow, BlobStore(self.image_store))
