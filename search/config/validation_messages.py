"""Pydantic's errors as InputErrors that name field, rule, value and remedy."""

from __future__ import annotations

import difflib

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from search.errors import InputError

MAX_SHOWN = 300  # characters of a wrong value


class SpecRuleError(InputError, ValueError):
    """A rule of several fields, raised by a validator: it says itself what it got. place: below the validated field."""


def explain(error: ValidationError, model: type[BaseModel]) -> InputError:
    """All that is wrong. A misspelt key explains a missing one, so it goes first."""
    details = sorted(error.errors(), key=lambda detail: detail["type"] not in _UNKNOWN)
    return InputError.of([_to_error(detail, model) for detail in details])


def _to_error(detail: ErrorDetails, model: type[BaseModel]) -> InputError:
    where = ".".join(str(part) for part in detail["loc"])
    section, key = _section(model, detail["loc"])
    if detail["type"] in _UNKNOWN:
        known = [field.alias or name for name, field in section.model_fields.items()]
        remedy = f"{near(key, known)}known: {', '.join(known)}"
        return InputError(where, "is not a known key", _shown(detail["input"]), remedy)
    if detail["type"] == "missing":
        return InputError(where, "is required", remedy=_REQUIRED.get(where, "add it"))
    cause = detail.get("ctx", {}).get("error")
    if isinstance(cause, SpecRuleError):
        place = ".".join(filter(None, (where, str(cause.place)))).replace(".[", "[")
        return InputError(place, cause.rule, cause.got, cause.remedy)
    remedy = _REQUIRED[where] if detail["type"] == "model_type" and where in _REQUIRED else _remedy(section, key)
    return InputError(where, _rule(detail, where), _shown(detail["input"]), remedy)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}... ({len(text):,} characters)"


def _rule(detail: ErrorDetails, where: str) -> str:
    """The broken rule: of our own validators, else pydantic's in our words."""
    context = {key: f"{v:g}" if isinstance(v, float) else v for key, v in detail.get("ctx", {}).items()}
    if "error" in context:
        return str(context["error"])
    if detail["type"] == "string_pattern_mismatch":
        return _PATTERNS[where]
    rule = _RULES.get(detail["type"])
    return rule.format(**context) if rule else detail["msg"].replace("Input should ", "must ")


_UNKNOWN = ("extra_forbidden", "invalid_key")
_RULES = {  # pydantic's error types that these models can meet
    "bool_type": "must be true or false",
    "finite_number": "must be a finite number",
    "float_type": "must be a number",
    "greater_than": "must be above {gt}",
    "greater_than_equal": "must be at least {ge}",
    "int_type": "must be a whole number",
    "less_than": "must be below {lt}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be {expected}",
    "model_type": "must be a mapping",
    "string_too_short": "must not be empty",
    "string_type": "must be text",
}
_REQUIRED = {
    "name": "name the study",
    "backbone": "for example backbone: {name: deit_small_patch16_224}",
    "backbone.name": "give a timm name, or demo for the bundled one",
    "data": "give data: {path: FOLDER} with one sub-folder per class, or data: {source: demo}",
}
_PATTERNS = {
    "name": "must be letters, digits, '.', '_' and '-' (at most 100, a letter or digit first)",
    "runtime.device": "must be auto, cpu, mps, cuda or cuda:N",
}


def _section(model: type[BaseModel], loc: tuple[int | str, ...]) -> tuple[type[BaseModel], str]:
    """The model that holds the field at `loc`, and the field's name in it."""
    for part in loc[:-1]:
        field = model.model_fields.get(str(part))
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            break
        model = field.annotation
    return model, str(loc[-1]) if loc else ""


def _remedy(section: type[BaseModel], key: str) -> str:
    field = section.model_fields.get(key)
    if field is None or field.is_required() or isinstance(field.default, BaseModel):
        return ""
    default = list(field.default) if isinstance(field.default, tuple) else field.default
    return f"the default is {'null' if default is None else default}"


def near(name: str, known: list[str]) -> str:
    """A hint at the known name that is meant, or nothing."""
    matches = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {matches[0]}? " if matches else ""
