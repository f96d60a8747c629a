"""The errors of the service. A message says: place, rule, value, remedy."""

from __future__ import annotations


class SearchError(Exception):
    """Something failed while running; the command line exits with 1."""


class InputError(SearchError):
    """The caller asked for something that cannot be; the command line exits with 2 before anything is written."""


class StorageUnavailable(SearchError):
    """The database does not answer, or has no room, now: the same call may succeed later."""


class StorageLost(SearchError):
    """The database did not answer for as long as one was told to wait for it."""


class TrialStopped(SearchError):
    """A worker lost its claim on a trial, or was asked to stop; the trial's slot is free for another."""
