"""Errors that end a service."""


class Fatal(Exception):
    """The service cannot run, and the text tells the operator why and what to do: it is logged without a traceback."""
