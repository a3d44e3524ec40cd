"""Settings of fleet."""

from pydantic import Field

from shoal_model import ports
from shoal_service.settings import HostPort, ServiceSettings


class FleetSettings(ServiceSettings):
    """Stage logs are kept in `<state>/logs`."""

    stage_log: HostPort = Field(
        f"0.0.0.0:{ports.STAGE_LOG}", description="UDP address to which stage 1 logs before it reaches the bus"
    )
    lost_after: float = Field(20.0, gt=0, le=3600, description="seconds without a heartbeat after which a node is lost")
