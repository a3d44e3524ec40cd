"""`shoal-registry`: the only writer of Shoal's records."""

from shoal_model.subjects import Service
from shoal_registry import service
from shoal_registry.settings import RegistrySettings
from shoal_service.run import Context, run


async def body(context: Context[RegistrySettings]) -> None:
    """Set everything up; what was set up answers until the service ends."""
    await service.start(context.bus, context.tasks, context.now, context.version, context.trust)
    context.ready()


def main() -> None:
    """Entry point of the console script."""
    run(Service.REGISTRY, RegistrySettings, body)
