"""`shoal-registry`: the only writer of Shoal's records."""

import asyncio
from importlib.metadata import version

from shoal_model.subjects import Service
from shoal_registry import service
from shoal_registry.settings import RegistrySettings
from shoal_service.run import Context, run


async def body(context: Context[RegistrySettings]) -> None:
    """Answer until cancelled."""
    await service.start(context.bus, context.tasks, context.now, version("shoal-registry"))
    context.ready()
    await asyncio.Event().wait()


def main() -> None:
    """Entry point of the console script."""
    run(Service.REGISTRY, RegistrySettings, body)
