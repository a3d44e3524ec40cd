"""Settings of the registry."""

from shoal_service.settings import ServiceSettings


class RegistrySettings(ServiceSettings):
    """What the registry knows is in the store: it has no settings of its own."""
