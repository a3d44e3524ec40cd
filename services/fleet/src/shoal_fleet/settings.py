"""Settings of fleet."""

from pydantic import Field

from shoal_service.settings import ListeningSettings


class FleetSettings(ListeningSettings):
    """Stage logs are kept in `<state>/logs`."""

    lost_after: float = Field(20.0, gt=0, le=3600, description="seconds without a heartbeat after which a node is lost")
