"""The one exception that means "the user can cure this"."""


class UserError(Exception):
    """A mistake in what the user gave: a config value, a file, a missing device.

    The message is one line that names what was found, what was expected and the cure. The
    commands print it without a traceback and end with exit code 2.
    """
