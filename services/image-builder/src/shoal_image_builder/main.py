"""`shoal-image-builder`: settings, wiring, run; with a verb, that one thing."""

import sys

from shoal_identity.keys import Key, KeyProblem
from shoal_image_builder import command
from shoal_image_builder.handlers import Handlers
from shoal_image_builder.registry import Releases
from shoal_image_builder.settings import Settings
from shoal_image_builder.worker import Worker
from shoal_model.subjects import Service
from shoal_service.errors import Fatal
from shoal_service.run import Context, run


async def serve(context: Context[Settings]) -> None:
    """Answer and build until cancelled."""
    settings = context.settings
    places = settings.places()
    releases = Releases(context.bus, places.store, settings.keep, _image_key(settings))
    handlers = Handlers(context.bus, places, settings.trees)
    await context.bus.serve(Service.IMAGE_BUILDER, context.version, handlers.endpoints())
    context.ready()
    await Worker(context.bus, places, releases, log=context.log, now=context.now).run()


def _image_key(settings: Settings) -> Key | None:
    try:
        return None if settings.image_key is None else Key.read(settings.image_key)
    except KeyProblem as error:
        raise Fatal(f"SHOAL_IMAGE_KEY (--image-key): {error}") from None


def main() -> None:
    """The console script."""
    if sys.argv[1:2] and sys.argv[1] in command.VERBS:
        sys.exit(command.main(sys.argv[1:]))
    run(Service.IMAGE_BUILDER, Settings, serve)
