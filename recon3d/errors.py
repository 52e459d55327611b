"""The one exception for what a user can mend."""


class UserError(Exception):
    """Bad input or a machine limit, told in one line: what is wrong, in which file (frame, row, key), what to do.

    The command line prints the message without a traceback and exits with code 2.
    """


class Diverged(UserError):
    """A training whose loss or weights stopped being finite."""


def require(ok: bool, message: str) -> None:
    """Raise :class:`UserError` with ``message`` unless ``ok``."""
    if not ok:
        raise UserError(message)
