"""`shoal-auth`: proves who connects to the bus."""

from shoal_auth.settings import AuthSettings
from shoal_model.subjects import Service
from shoal_service.run import Context, run


async def body(context: Context[AuthSettings]) -> None:
    """Answer until cancelled."""
    context.ready()


def main() -> None:
    """Entry point of the console script."""
    run(Service.AUTH, AuthSettings, body)
