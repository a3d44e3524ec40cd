"""The identity of a cluster: its CA, its certificates, and the keys of everybody on a head."""
