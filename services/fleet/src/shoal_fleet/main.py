"""`shoal-fleet`: what the nodes are doing."""

import asyncio
from datetime import timedelta

from shoal_fleet import service
from shoal_fleet.settings import FleetSettings
from shoal_model import ports
from shoal_model.subjects import Service
from shoal_service.records import RecordsView
from shoal_service.run import Context, run


async def body(context: Context[FleetSettings]) -> None:
    """Answer until cancelled."""
    settings = context.settings
    options = service.Options(
        logs=settings.state / "logs",
        log_address=(str(settings.listen), ports.STAGE_LOG),
        lost_after=timedelta(seconds=settings.lost_after),
    )
    async with RecordsView.open(context.bus) as view:
        transport = await service.start(context.bus, view, context.tasks, options, context.now, context.version)
        context.ready()
        try:
            await asyncio.Event().wait()
        finally:
            transport.close()


def main() -> None:
    """Entry point of the console script."""
    run(Service.FLEET, FleetSettings, body)
