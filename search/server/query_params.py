"""Refusing query parameters that an operation does not know: a typo would be answered as if nothing had been asked."""

from __future__ import annotations

import difflib

from fastapi import Request

from search.errors import InputError
from search.server.errors import ServiceError


def check_parameters(request: Request) -> None:
    """Raises ServiceError (422) for the first unknown one."""
    operations = request.app.openapi()["paths"].get(request.scope["route"].path, {})
    described = operations.get(request.method.lower(), {}).get("parameters", ())
    known = [each["name"] for each in described if each["in"] == "query"]
    for name in request.query_params:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            rule = f"one of {', '.join(known)}" if known else "left out, for there are none here"
            remedy = f"did you mean {near[0]}?" if near else ""
            raise ServiceError(422, InputError("query parameter", f"must be {rule}", repr(name), remedy), name)
