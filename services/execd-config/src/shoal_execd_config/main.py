"""`shoal-execd-config`: settings, wiring, run."""

from aiohttp import web

from shoal_execd_config.handlers import Doors, Options
from shoal_execd_config.settings import Settings
from shoal_model import ports
from shoal_model.subjects import Service
from shoal_service.http import served
from shoal_service.records import RecordsView
from shoal_service.run import Context, run
from shoal_service.store import BlobStore
from shoal_service.tls import scheme, server_context


async def serve(context: Context[Settings]) -> None:
    """Answer until cancelled."""
    settings, tls = context.settings, server_context(context.settings)
    store, doors = BlobStore(settings.image_store), Doors(scheme(settings), settings.ca)
    async with RecordsView.open(context.bus) as view:
        options = Options(context.bus, lambda: view.snapshot, store, context.log, doors)
        view.on_change(options.record_changed)
        application = web.Application()
        application.router.add_get("/blobs/{digest}", options.blob)
        async with served(application, str(settings.listen), ports.OPTIONS_HTTP, tls=tls):
            await context.bus.serve(Service.EXECD_CONFIG, context.version, options.endpoints)
            context.ready()
            await options.supply_waiting()


def main() -> None:
    """The console script."""
    run(Service.EXECD_CONFIG, Settings, serve)
