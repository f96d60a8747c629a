"""One shape for everything that goes wrong: {"error": {"place", "rule", "got", "remedy", "message"}}."""

from __future__ import annotations

import difflib
import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from pydantic import BaseModel, Field
from pydantic.config import JsonDict
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from pruning.errors import PruningError
from search.errors import InputError, SearchError, SpecConflictError, StudyStateError, UnknownStudyError
from search.server.examples import CONFLICT, ERRORS

LOG = logging.getLogger(__name__)
JSON_TYPE = "application/json"
Responses = dict[int | str, dict[str, Any]]  # of an operation, by code


class ErrorDetail(BaseModel):
    """place: the field or parameter that is wrong, where there is one. message: all fields in a sentence."""

    place: str | None = None
    message: str
    source: str | None = Field(default=None, description="the study or file that holds the field")
    rule: str | None = Field(default=None, description="what it must be")
    got: str | None = Field(default=None, description="what it is")
    remedy: str | None = Field(default=None, description="what to do")
    also: list[dict[str, Any]] | None = Field(default=None, description="what else is wrong, in the same fields")
    differences: list[str] | None = Field(
        default=None, description="only for 409: what differs from the study of this name"
    )


class ErrorBody(BaseModel):
    error: ErrorDetail


class ServiceError(Exception):
    """A user's error with a status of its own. place: the parameter that it is about, where its rule names another."""

    def __init__(self, status: int, error: InputError, place: str = "") -> None:
        super().__init__(str(error))
        self.status, self.error, self.place = status, error, place


def error_response(status: int, message: str, headers: Mapping[str, str] | None = None, **fields: Any) -> Response:
    """ASCII: a message may quote half a surrogate pair, which UTF-8 cannot hold."""
    body = json.dumps({"error": {**fields, "message": message}})
    challenge = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    return Response(body + "\n", status, {**challenge, **(headers or {})}, JSON_TYPE)


def input_error_response(status: int, error: InputError, place: str = "") -> Response:
    """The error's fields, and its text. place: the parameter that it is about, where its rule names another."""
    return error_response(status, str(error), **(error.to_dict() | ({"place": place} if place else {})))


def documented(*codes: int) -> Responses:
    """What OpenAPI tells of the refusals of an operation."""
    return {code: _described(code, ERRORS[code]) for code in codes}


def shown(example: JsonDict | str, media_type: str = JSON_TYPE, schema: JsonDict | None = None) -> dict[str, Any]:
    """What OpenAPI tells of one answer. schema: None for that of what the operation returns."""
    return {"content": {media_type: {"example": example} | ({"schema": schema} if schema else {})}}


def _described(code: int, example: JsonDict) -> dict[str, Any]:
    return shown(example, schema=OF_ERRORS) | {"description": DESCRIPTIONS[code]}


OF_ERRORS: JsonDict = {"$ref": "#/components/schemas/ErrorBody"}
HINTS = {"confirm": ": the study's name again, as in ?confirm=NAME, for nothing brings it back"}
DESCRIPTIONS = {
    400: "The body cannot be read",
    401: "The token is missing or wrong",
    403: "Another origin's page asked",
    404: "No such study, version, trial or front",
    409: "It contradicts what is there",
    413: "The body is too large",
    415: "The body's type is not taken",
    422: "A field or parameter breaks a rule",
    503: "The database cannot be reached",
}

ANOTHER_SPEC: Responses = {409: _described(409, CONFLICT)}


# the status of an error that passes a route, and the parameter that it is about, where its rule names another
STATUSES: dict[type[Exception], tuple[int, str]] = {
    SpecConflictError: (409, "name"),
    StudyStateError: (409, ""),
    UnknownStudyError: (404, "name"),
    InputError: (422, ""),
    PruningError: (422, ""),
}


def install(app: Starlette) -> None:
    """Answer every error in the one shape."""
    for kind, (status, place) in STATUSES.items():
        app.add_exception_handler(kind, partial(_invalid, status, place))
    app.add_exception_handler(SearchError, _unavailable)
    app.add_exception_handler(ServiceError, _own)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _defect)


def _invalid(status: int, place: str, request: Request, error: Exception) -> Response:
    """A flag of the command line is a parameter here."""
    assert isinstance(error, InputError | PruningError)
    known = InputError.of([error])
    if (flag := str(known.place)).startswith("--"):
        known = replace(known, place=flag.removeprefix("--").replace("-", "_"))
    return input_error_response(status, known, place)


def _unavailable(request: Request, error: Exception) -> Response:
    LOG.error("%s", error)
    return error_response(503, str(error))


def _own(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)
    return input_error_response(error.status, error.error, error.place)


def wrong_parameter(request: Request, error: Any) -> Response:
    """error: FastAPI's; told in this project's words."""
    detail = error.errors()[0]
    place = str(detail["loc"][-1])
    if detail["type"] == "missing":
        return input_error_response(422, InputError(place, f"is required{HINTS.get(place, '')}"))
    rule = detail["msg"].replace("Input should be", "must be").replace("Input should", "must")
    return input_error_response(422, InputError(place, rule, repr(detail["input"])))


def check_parameters(request: Request) -> None:
    """Raises ServiceError (422) for the first query parameter that the operation does not know.

    A typo would be answered as if nothing had been asked.
    """
    operations = request.app.openapi()["paths"].get(request.scope["route"].path, {})
    described = operations.get(request.method.lower(), {}).get("parameters", ())
    known = [each["name"] for each in described if each["in"] == "query"]
    for name in request.query_params:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            rule = f"one of {', '.join(known)}" if known else "left out, for there are none here"
            remedy = f"did you mean {near[0]}?" if near else ""
            raise ServiceError(422, InputError("query parameter", f"must be {rule}", repr(name), remedy), name)


def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return error_response(error.status_code, f"{error.detail}: {request.method} {request.url.path}", error.headers)


def _defect(request: Request, error: Exception) -> Response:
    LOG.error("defect in %s %s", request.method, request.url.path, exc_info=error)
    return error_response(500, "this is a defect of the server; its log tells more")
