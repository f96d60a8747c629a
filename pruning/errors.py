"""The errors of this package. A message says: place, rule, value, remedy."""

from __future__ import annotations


class PruningError(ValueError):
    """Base of all errors that a caller of `pruning` can cause and mend."""


class ScheduleError(PruningError):
    """A schedule breaks a rule: by itself, or for the backbone it is meant for."""


class UnsupportedBackbone(PruningError):
    """This timm model cannot be pruned this way; the message says why."""


class WeightsError(PruningError):
    """Weights are missing, unreadable, or do not fit the backbone."""


class ConfigError(PruningError):
    """A YAML document is missing, unreadable, or not what was expected."""


class DeploymentError(PruningError):
    """A model cannot be exported: its file cannot be written, or what exporting needs is not installed."""


class UncountedOperator(PruningError):
    """The FLOP counter met an operator that multiplies and that it has no rule for."""
