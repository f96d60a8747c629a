"""What makes two schedules the same: the canonical form that a schedule's key is taken of.

It says what happens, not what was asked for: counts instead of shares, and of the options those that matter. Options
that equal the frozen defaults of revision 1 are left out, so that keys of earlier releases stay what they were and a
new default never changes what a stored key stands for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pruning.methods import method_row
from pruning.stage import StagePlan

Planned = tuple[str, Mapping[str, Any], StagePlan]  # a stage's method, all its options, its counts


def canonical_form(stages: Sequence[Planned], exact_savings: bool) -> dict[str, Any]:
    """Plain data, equal for schedules of equal effect. Stages that drop nothing must be left out."""
    canonical: dict[str, Any] = {"stages": []}
    if stages:
        canonical = _one_method(stages) or _mixed(stages)
    return canonical | ({"exact_savings": True} if exact_savings else {})


def _one_method(stages: Sequence[Planned]) -> dict[str, Any] | None:
    """All stages of one method whose options agree wherever they matter; None for others."""
    methods = {method for method, _, _ in stages}
    if len(methods) > 1:
        return None
    (method,) = methods
    agreed: dict[str, Any] = {}
    for _, options, plan in stages:
        for name, option in method_row(method).options.items():
            if option.matters(options, [plan]) and agreed.setdefault(name, options[name]) != options[name]:
                return None
    frozen = {name: option.frozen_default for name, option in method_row(method).options.items()}
    return {
        "method": method,
        "options": {name: value for name, value in sorted(agreed.items()) if value != frozen[name]},
        "stages": [_counts(plan) for _, _, plan in stages],
    }


def _mixed(stages: Sequence[Planned]) -> dict[str, Any]:
    """Each stage with its own method and options."""
    return {
        "stages": [
            [method, method_row(method).effective_options(options, [plan]), *_counts(plan)]
            for method, options, plan in stages
        ]
    }


def _counts(plan: StagePlan) -> list[int]:
    return [plan.block, plan.kept, plan.candidates, plan.similar, plan.iterations]
