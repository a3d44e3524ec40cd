"""Modules: from a recipe and a distribution's packages to a layer inside a `.deb`. The one part that needs network."""
