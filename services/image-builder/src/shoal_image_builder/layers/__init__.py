"""Layers: sorted trees of files as deterministic tar archives, in packages, and how they are read again."""
