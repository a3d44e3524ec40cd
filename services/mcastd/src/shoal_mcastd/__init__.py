"""mcastd: one multicast stream for all nodes that want an image now; the same bytes over HTTP ranges."""
