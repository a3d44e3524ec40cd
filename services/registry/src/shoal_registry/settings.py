"""Settings of the registry."""

from shoal_model import ports
from shoal_service.settings import ServiceSettings


class RegistrySettings(ServiceSettings):
    """Everything is in the store: nothing but what every service has."""

    metrics: str = f"127.0.0.1:{ports.METRICS['registry']}"
