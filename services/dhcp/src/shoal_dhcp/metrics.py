"""What `/metrics` tells about dhcp. No label names a node or a client."""

from prometheus_client import Counter

REQUESTS = Counter("shoal_dhcp_requests_total", "Packets received, by message type", ["type"])
REPLIES = Counter("shoal_dhcp_replies_total", "Packets answered, by message type", ["type"])
DROPPED = Counter("shoal_dhcp_dropped_total", "Packets that got no answer, by reason", ["reason"])
SEND_ERRORS = Counter("shoal_dhcp_send_errors_total", "Answers that the kernel refused to send")
ADVERTISEMENTS = Counter("shoal_dhcp_advertisements_total", "IPv6 router solicitations of nodes answered")
NOTICES = Counter("shoal_dhcp_notices_total", "Events handed to the bus")
NOTICES_DROPPED = Counter("shoal_dhcp_notices_dropped_total", "Events lost because the bus took none for too long")
