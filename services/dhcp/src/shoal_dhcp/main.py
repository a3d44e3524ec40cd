"""`shoal-dhcp`: settings, wiring, run."""

from shoal_dhcp.handlers import Handler
from shoal_dhcp.head_address import HeadAddress
from shoal_dhcp.ipv6 import Advertiser
from shoal_dhcp.outbox import BusOutbox
from shoal_dhcp.projection import Projection
from shoal_dhcp.settings import Settings
from shoal_dhcp.wire import Wire
from shoal_model.subjects import Service
from shoal_service.records import RecordsView
from shoal_service.run import Context, run

_LAST_WORDS = 3.0
"""Seconds that events still queued get at the end."""


async def serve(context: Context[Settings]) -> None:
    """Answer on the boot interface until cancelled."""
    outbox = BusOutbox(context.bus, context.log)
    async with RecordsView.open(context.bus) as view:
        find, interface = Projection(view).find, context.settings.interface
        handler = Handler(find, outbox, context.log, current=lambda: context.bus.connected)
        with Wire(interface, context.log, context.now) as wire, Advertiser(interface, find, context.log):
            here = HeadAddress(interface, lambda: view.snapshot.cluster, context.log)
            view.on_change(here.changed)
            context.tasks.create_task(here.run())
            context.tasks.create_task(outbox.run())
            context.ready()
            try:
                await wire.run(handler.handle)
            finally:
                await outbox.close(_LAST_WORDS)


def main() -> None:
    """The console script."""
    run(Service.DHCP, Settings, serve)
