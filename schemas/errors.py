"""The one exception that a user's mistake raises."""


class UserError(Exception):
    """A mistake of the user's, said in one sentence: what, where, wanted, got, what to do next.

    The command line prints the sentence and exits with status 2; no traceback reaches the user.
    """
