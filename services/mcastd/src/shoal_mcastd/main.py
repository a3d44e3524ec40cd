"""`shoal-mcastd`: settings, wiring, run."""

from shoal_mcastd import http_door
from shoal_mcastd.handlers import Handlers
from shoal_mcastd.sessions import Head, Sessions
from shoal_mcastd.settings import Settings
from shoal_model import subjects
from shoal_model.messages import BootEvent
from shoal_model.subjects import Service
from shoal_service.records import RecordsView
from shoal_service.run import Context, run
from shoal_service.store import BlobStore
from shoal_service.tls import server_context


async def body(context: Context[Settings]) -> None:
    """Serve images until cancelled."""
    settings, bus = context.settings, context.bus
    store, tls = BlobStore(settings.image_store), server_context(settings)
    async with RecordsView.open(bus) as view, http_door.served(str(settings.listen), store, tls):
        sessions = Sessions(Head(bus, context.tasks, view, store, settings, context.log, context.now))

        async def hear(subject: str, event: BootEvent) -> None:
            sessions.hear(subject, event)

        await bus.subscribe(subjects.BOOT_EVENTS, BootEvent, hear)
        await bus.serve(Service.MCASTD, context.version, Handlers(sessions).endpoints())
        context.ready()
        await sessions.run()


def main() -> None:
    """The console script."""
    run(Service.MCASTD, Settings, body)
