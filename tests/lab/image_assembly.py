"""One assembly as a program of its own, so that a test can change the machine around it: time zone, umask, locale,
host name. `python -m lab.image_assembly MODULES IMAGES SHADOW STORE MODULE…` prints the manifest.
"""

import sys
from pathlib import Path

import structlog

from shoal_image_builder.images.assemble import Places, Watch, assemble
from shoal_image_builder.process import Cancel
from shoal_model.records import Image
from shoal_service.store import BlobStore


def main(arguments: list[str]) -> None:
    """Assemble an image of the modules named."""
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    modules, images, shadow, store = map(Path, arguments[:4])
    image = Image(flavor="bookworm", version="1.0", modules=arguments[4:])
    watch = Watch(Cancel(), lambda what, _: print(what, file=sys.stderr))
    manifest = assemble("compute", image, Places(modules, images, shadow, BlobStore(store)), watch)
    print(manifest.model_dump_json())


if __name__ == "__main__":
    main(sys.argv[1:])
