"""shoal-auth: proves who connects to the bus."""
