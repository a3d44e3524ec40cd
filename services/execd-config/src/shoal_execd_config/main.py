"""`shoal-execd-config`: settings, wiring, run."""

from aiohttp import web

from shoal_execd_config.handlers import Options
from shoal_execd_config.settings import Settings
from shoal_model.subjects import Service
from shoal_service.errors import Fatal
from shoal_service.records import RecordsView
from shoal_service.run import Context, run
from shoal_service.settings import host_port
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
            await _listen(runner, context.settings.http)
            await context.bus.serve(Service.EXECD_CONFIG, context.version, options.endpoints)
            context.ready()
            await options.supply_waiting()
        finally:
            await runner.cleanup()


async def _listen(runner: web.AppRunner, where: str) -> None:
    host, port = host_port(where)
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as error:
        raise Fatal(f"cannot listen on {where} (SHOAL_HTTP): {error.strerror}; choose another port") from error


def main() -> None:
    """The console script."""
    run(Service.EXECD_CONFIG, Settings, serve)
