"""Errors that cross the bus, and their codes. Standard library alone: nodes carry this."""


class BusError(Exception):
    """An error another service may be told about: its text is for people, and says what to do."""

    code = 500


class Invalid(BusError):
    """The request itself is wrong; repeating it will not help."""

    code = 400


class TooLarge(Invalid):
    """A message is larger than the bus takes."""


class Denied(BusError):
    """The caller may not do this."""

    code = 403


class NotPermitted(Denied):
    """The bus itself refuses a subject: it is not among those that our key may use."""


class NotFound(BusError):
    """What the request names does not exist."""

    code = 404


class Conflict(BusError):
    """The request contradicts what is there now: reload, decide again."""

    code = 409


class Unavailable(BusError):
    """Nobody can answer now; trying again later may help."""

    code = 503


class Internal(BusError):
    """The other side failed; its log holds the detail under the id in this message."""

    code = 500


BY_CODE: dict[int, type[BusError]] = {
    cls.code: cls for cls in (Invalid, Denied, NotFound, Conflict, Unavailable, Internal)
}
