"""The lab: a network in a namespace, virtual nodes on it, a head. Nothing of it outlives the process that made it.

Tests use `Namespace`; the demo runs inside one whole namespace of its own and uses `Here`.
"""
