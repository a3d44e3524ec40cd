"""Well-known ports of a head. Standard library alone."""

NATS = 4222
TFTP = 69
BOOT_HTTP = 8080
"""The boot file server's tree over HTTP: for firmware and loaders, so without TLS."""
IMAGE_HTTP = 8081
"""mcastd's unicast way, with TLS: `/blobs/<sha256>` with ranges."""
IMAGE_MULTICAST = 17081
"""UDP: mcastd's sessions send their images to this port, each to a group of its own."""
OPTIONS_HTTP = 8082
"""execd-config's door, with TLS: `/blobs/<sha256>?node=<id>`, contents of options too large for a message."""
STAGE_LOG = 6666
"""UDP: log lines of stage 1 before it reaches the bus (netconsole's port)."""
METRICS = {
    "registry": 9101,
    "fleet": 9102,
    "dhcp": 9103,
    "tftp": 9104,
    "image-builder": 9105,
    "mcastd": 9106,
    "execd-config": 9107,
    "auth": 9108,
}
"""Where each service serves `/metrics`, `/healthz` and `/readyz`, by default on 127.0.0.1."""
SECOND_AUTH_METRICS = 9109
"""The same for the second auth of a head, which lets nodes in while the first one starts again."""
