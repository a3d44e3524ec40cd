"""`shoal up`: one head on one machine."""
