"""A service as small as one can be: `python -m lab.small_service --behaviour=…` (see `tests/contract`)."""

import asyncio
import resource

from pydantic import Field

from shoal_bus.api import Endpoint
from shoal_model.messages import Empty, LogReply, LogRequest
from shoal_model.subjects import Service
from shoal_service.errors import Fatal
from shoal_service.run import Context, run
from shoal_service.settings import ServiceSettings


class Settings(ServiceSettings):
    """A service that does as it is told."""

    behaviour: str = Field("good", description="good, return, crash, crash-later, fatal, stray, stuck or crash-stuck")
    names: list[str] = Field([], description="words that it logs")


async def body(context: Context[Settings]) -> None:
    behaviour = context.settings.behaviour

    async def answer(subject: str, request: LogRequest) -> LogReply:
        context.log.info("small.asked", subject=subject)
        await asyncio.sleep(1.0)
        return LogReply(boot=None, text=request.node)

    async def crash_later() -> None:
        await asyncio.sleep(0.2)
        raise ValueError("broken later")

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    context.log.info("small.files", all=soft == hard, core=resource.getrlimit(resource.RLIMIT_CORE)[1])
    context.log.info("small.trust", keys=None if context.trust is None else context.trust.image_keys)
    context.log.info("small.names", names=context.settings.names)
    await context.bus.serve(context.service, context.version, [Endpoint("rpc.fleet.v1.log", LogRequest, answer)])
    if behaviour == "crash":
        raise ValueError("broken at once")
    if behaviour == "stray":
        await context.bus.publish("rpc.registry.v1.export", Empty())
    if behaviour == "fatal":
        raise Fatal("no interface eth7: set SHOAL_INTERFACE")
    if behaviour in ("crash-later", "crash-stuck"):
        context.tasks.create_task(crash_later())
    context.ready()
    if behaviour == "return":
        return
    try:
        await asyncio.Event().wait()
    finally:
        if behaviour in ("stuck", "crash-stuck"):
            while True:
                try:
                    await asyncio.sleep(3600)
                except asyncio.CancelledError:
                    continue
        context.log.info("small.ended", connected=context.bus.connected)


if __name__ == "__main__":
    run(Service.FLEET, Settings, body)
