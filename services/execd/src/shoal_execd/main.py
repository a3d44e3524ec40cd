"""`shoal-execd`: the resident agent of a node."""

import asyncio
import sys

from shoal_execd import resident, settings
from shoal_execd.handover import HandoverError
from shoal_execd.journal import Journal, to_stdout


def main() -> None:
    """Run the agent until SIGTERM; exit 2 for settings or a machine it cannot work with."""
    journal = Journal("execd", [to_stdout()])
    try:
        asyncio.run(resident.serve(settings.load(), journal))
    except (settings.SettingsError, HandoverError) as error:
        journal.info(f"shoal-execd: {error}")
        sys.exit(2)
