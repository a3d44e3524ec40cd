"""The commands of `shoal`, a module for each noun; each knows messages and words, and leaves rules to the services."""
