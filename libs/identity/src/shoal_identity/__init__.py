"""Who is who: keys, boot tokens, signed manifests, and what a node trusts. Nodes carry this: no pydantic."""
