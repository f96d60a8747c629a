"""The rules of `space.options`: for each method, the values that a search tries of its options."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

from pruning.errors import ScheduleError
from pruning.methods import METHODS, Option
from search.config.validation_messages import SpecRuleError

MAX_COMBINATIONS = 256  # of one method's options: each is another method to a search

Values = dict[str, tuple[Any, ...]]


def check_values(given: Any, methods: Sequence[str]) -> dict[str, Values]:
    """Values by method and option, each in the option's own type; sorted by name, so that equal ones are written alike.

    methods: those that are searched. Raises ValueError with the rule.
    """
    if not isinstance(given, dict):
        raise ValueError("must be a mapping from method to option to values, {tome: {drop: [block-end]}} say")
    for method in given:
        if method not in methods:
            raise SpecRuleError("", f"must be for methods that are searched ({', '.join(methods)})", repr(method))
    return {method: _of_method(method, given[method]) for method in sorted(given)}


def _of_method(method: str, given: Any) -> Values:
    if not isinstance(given, dict) or not all(isinstance(listed, list | tuple) and listed for listed in given.values()):
        raise SpecRuleError("", f"must list one or more values for each option of {method}", repr(given))
    count = math.prod(map(len, given.values()))
    if count > MAX_COMBINATIONS:
        rule = f"must leave at most {MAX_COMBINATIONS} combinations for {method}"
        raise SpecRuleError("", rule, count, "list fewer")
    try:
        values = _as_taken(method, given)
    except ScheduleError as error:
        raise SpecRuleError("", f"must hold only what {method} takes: {error}") from None
    for name, listed in values.items():
        if len(set(listed)) < len(listed):
            raise SpecRuleError("", "must name each value once", f"{list(listed)} for {name} of {method}")
    return values


def _as_taken(method: str, given: dict[str, Any]) -> Values:
    """Raises ScheduleError if an option, a value or a combination of values is none of the method's."""
    row = METHODS[method]
    row.fill_options(method, {name: listed[0] for name, listed in given.items() if name not in row.options})
    values = {name: tuple(_checked(row.options[name], name, value) for value in given[name]) for name in sorted(given)}
    for combination in itertools.product(*values.values()):
        row.fill_options(method, dict(zip(values, combination, strict=True)))
    return values


def _checked(option: Option, name: str, value: Any) -> Any:
    """An earlier release's word stays as it is: Optuna's trials of that study are bound to the values it listed."""
    checked = option.check(name, value)
    return value if isinstance(value, bool) and option.choices else checked
