"""Image distribution by multicast, "mcast/1": one systematic pass, then rateless repair from counts alone.

The machines (`sender`, `receiver`) know no socket and no clock; `client` and `http_ranges` are the node's I/O around
them, blocking and without asyncio. Standard library alone, and no OpenSSL: stage 1 of a boot carries this.
"""
