"""Filters of warnings, which belong to the whole process: threads that change them take turns."""

import os
import threading
import warnings
from contextlib import contextmanager

__all__ = ["catch_warnings", "taking_turns"]

# threads that change filters at the same time would leave some behind, or a list that nobody reads
_lock = threading.RLock()


def _renew():
    """Make another lock: a forked process has no thread that could give back the one that it inherits."""
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)


@contextmanager
def taking_turns():
    """Let no other thread change filters of warnings by this module; for calls of astropy that change them, too."""
    with _lock:
        yield


@contextmanager
def catch_warnings(*, record=False):
    """Do what `warnings.catch_warnings` does, in one thread at a time.

    Parameters
    ----------
    record : bool, optional
        Collect warnings in a list, in place of showing them.

    Yields
    ------
    list of warnings.WarningMessage or None
        Those collected.
    """
    with taking_turns(), warnings.catch_warnings(record=record) as caught:
        yield caught
