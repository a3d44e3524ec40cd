"""`shoal-auth`: proves who connects to the bus."""

import asyncio
from pathlib import Path

from shoal_auth.answer import Seal
from shoal_auth.service import Access, Duty, answering
from shoal_auth.settings import AuthSettings
from shoal_identity.keys import Key, KeyProblem
from shoal_model.subjects import Service
from shoal_service.errors import Fatal
from shoal_service.run import Context, run


async def body(context: Context[AuthSettings]) -> None:
    """Answer until cancelled."""
    settings = context.settings
    callout, system = (_key(settings, name, "U") for name in ("callout_key", "system_key"))
    issuer = _key(settings, "issuer_key", "A")
    access = Access(settings.nats, callout, system, context.trust)
    duty = Duty(Seal(issuer, settings.lifetime), settings.boot_keys, context.now, context.version)
    async with answering(context.bus, access, duty):
        context.ready()
        await asyncio.Event().wait()


def main() -> None:
    """Entry point of the console script."""
    run(Service.AUTH, AuthSettings, body)


def _key(settings: AuthSettings, name: str, kind: str) -> Key:
    """The key in the file that a setting names, if its public key begins so."""
    path: Path | None = getattr(settings, name)
    if path is None:
        raise Fatal(f"auth needs SHOAL_{name.upper()}: {AuthSettings.model_fields[name].description}")
    try:
        key = Key.read(path)
    except KeyProblem as error:
        raise Fatal(str(error)) from error
    if not key.public.startswith(kind):
        raise Fatal(f"SHOAL_{name.upper()}: {path} holds another kind of key: its public key should begin with {kind}")
    return key
