"""Well-known ports of a head. Standard library alone."""

NATS = 4222
TFTP = 69
BOOT_HTTP = 8080
"""The boot file server's tree over HTTP, and `/blobs/<sha256>`."""
IMAGE_HTTP = 8081
"""mcastd's unicast way: `/blobs/<sha256>` with ranges."""
IMAGE_MULTICAST = 17081
"""UDP: mcastd's sessions send their images to this port, each to a group of its own."""
OPTIONS_HTTP = 8082
"""execd-config's door: `/blobs/<sha256>?node=<id>`, the contents of options that are too large for a message."""
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
}
"""Where each service serves `/metrics`, `/healthz` and `/readyz`, by default on 127.0.0.1."""
