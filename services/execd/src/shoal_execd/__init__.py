"""The node: stage 1 in the initrd, stage 2 before systemd, then the resident agent. No pydantic: nodes carry none."""

RELEASE = "0.1.0"
"""The version of execd, as the head is told it."""
