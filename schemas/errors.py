"""The one exception that a user's mistake raises."""

from __future__ import annotations

import errno
import os

FULL = (errno.ENOSPC, errno.EDQUOT)
"""What a full disk, or a used-up quota, answers."""


class UserError(Exception):
    """A mistake of the user's, said in one sentence: what, where, wanted, got, what to do next.

    The command line prints the sentence and exits with status 2; no traceback reaches the user.
    """


def unwritable(place: str, error: OSError) -> UserError:
    """The sentence about a place that cannot be written to: what, why, what to do."""
    reason = os.strerror(error.errno) if error.errno else str(error) or type(error).__name__
    move = "free space there" if error.errno in FULL else "mend that"
    return UserError(f"{place} cannot be written: {reason}; {move} and give the same command again, which goes on")
