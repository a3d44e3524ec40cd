"""The contract between Shoal's parts.

`subjects` and `names` import the standard library alone, because nodes carry them; `records`, `messages` and
`resolve` import pydantic. Nothing is re-exported here, so that a node never pulls in pydantic by accident.
"""
