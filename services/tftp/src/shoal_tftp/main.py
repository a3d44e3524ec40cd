"""shoal-tftp: the boot file server of a head."""

import asyncio
import resource

from shoal_model import ports
from shoal_model.subjects import Service
from shoal_service.records import RecordsView
from shoal_service.run import Context, run
from shoal_service.store import BlobStore
from shoal_tftp.announcer import Announcer
from shoal_tftp.handlers import BootFiles, Places
from shoal_tftp.http_door import HttpDoor
from shoal_tftp.identity import Identity
from shoal_tftp.settings import TftpSettings
from shoal_tftp.tftp_door import TftpDoor


async def serve(context: Context[TftpSettings]) -> None:
    """Open both doors, and keep them open until cancelled."""
    settings, address = context.settings, str(context.settings.listen)
    loop = asyncio.get_running_loop()
    announcer = Announcer(context.bus)
    identity = await asyncio.to_thread(Identity.of, settings)
    places = Places(BlobStore(settings.image_store), settings.tftpboot, tuple(settings.loaders), identity)
    async with RecordsView.open(context.bus) as records, asyncio.TaskGroup() as tasks:
        files = BootFiles(records, places, announcer, context.now, loop.time)
        tftp = TftpDoor(files, (address, ports.TFTP), settings.transfers)
        async with HttpDoor(files, settings.transfers).open((address, ports.BOOT_HTTP)):
            sending = tasks.create_task(announcer.run())
            context.ready()
            try:
                await tftp.serve()
            finally:
                await announcer.drain()
                sending.cancel()


def main() -> None:
    """The console script `shoal-tftp`."""
    # A transfer holds a socket and a file: the usual soft limit of 1,024 would end at 500 clients.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    run(Service.TFTP, TftpSettings, serve)


if __name__ == "__main__":
    main()
