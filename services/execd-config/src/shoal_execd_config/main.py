"""`shoal-execd-config`: settings, wiring, run."""

from aiohttp import web

from shoal_execd_config.handlers import Options
from shoal_execd_config.settings import Settings
from shoal_model import ports
from shoal_model.subjects import Service
from shoal_service.errors import Fatal
from shoal_service.records import RecordsView
from shoal_service.run import Context, run
from shoal_service.store import BlobStore


async def serve(context: Context[Settings]) -> None:
    """Answer until cancelled."""
    async with RecordsView.open(context.bus) as view:
        options = Options(context.bus, lambda: view.snapshot, BlobStore(context.settings.image_store), context.log)
        view.on_change(options.record_changed)
        application = web.Application()
        application.router.add_get("/blobs/{digest}", options.blob)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        try:
            await _listen(runner, str(context.settings.listen))
            await context.bus.serve(Service.EXECD_CONFIG, context.version, options.endpoints)
            context.ready()
            await options.supply_waiting()
        finally:
            await runner.cleanup()


async def _listen(runner: web.AppRunner, address: str) -> None:
    try:
        await web.TCPSite(runner, address, ports.OPTIONS_HTTP).start()
    except OSError as error:
        where = f"{address}:{ports.OPTIONS_HTTP}"
        raise Fatal(f"cannot serve HTTP at {where}: {error.strerror}; set SHOAL_LISTEN") from error


def main() -> None:
    """The console script."""
    run(Service.EXECD_CONFIG, Settings, serve)
