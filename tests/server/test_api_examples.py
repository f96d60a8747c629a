"""The API's description shows an example of everything, and each is what the API could really answer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import TypeAdapter

from search import types
from search.config.spec import make_spec
from search.server import errors, examples, models

JSON = "application/json"
Document = dict[str, Any]


@pytest.fixture(scope="module")
def document(service: Any) -> Document:
    described: Document = service.api("GET", "/openapi.json").json()
    return described


def operations(document: Document) -> Iterator[tuple[str, Document]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def model_of(content: Document) -> str:
    name: str = content["schema"]["$ref"].rpartition("/")[2]
    return name


def example_of(content: Document, document: Document) -> Any:
    """The answer's own example, else that of its model; None without either."""
    (shown,) = document["components"]["schemas"][model_of(content)].get("examples", [None])
    return content.get("example", shown)


def answers(document: Document) -> Iterator[tuple[str, Document]]:
    for operation, described in operations(document):
        for code, response in described["responses"].items():
            if JSON in response.get("content", {}):
                yield f"{operation} {code}", response["content"][JSON]


def test_every_json_answer_has_an_example_that_its_model_takes(document: Document) -> None:
    seen = set()
    for place, content in answers(document):
        name, example = model_of(content), example_of(content, document)
        assert example, place
        model = TypeAdapter(next(getattr(module, name) for module in (models, errors, types) if hasattr(module, name)))
        # neither a field that the model has not, nor one left out that it always has
        assert model.dump_python(model.validate_python(example), mode="json", exclude_none=True) == example, place
        seen.add(name)
    assert {"StudyModel", "HealthModel", "FrontModel", "HistoryModel", "EvaluationListModel", "ErrorBody"} <= seen


def test_what_is_no_json_has_an_example_too(document: Document) -> None:
    for operation, described in operations(document):
        for code, response in described["responses"].items():
            for kind, content in response.get("content", {}).items():
                assert kind == JSON or content["example"], (operation, code)


def test_every_parameter_has_an_example_that_it_takes(document: Document) -> None:
    kinds = {"integer": int, "boolean": bool, "number": float, "string": str}
    seen = set()
    for operation, described in operations(document):
        for parameter in described.get("parameters", ()):
            schema = parameter["schema"]
            (example,) = schema.get("examples", [None])
            assert example is not None, (operation, parameter["name"])
            kind = kinds[schema["type"] if "type" in schema else schema["anyOf"][0]["type"]]
            TypeAdapter(kind).validate_python(example, strict=True)
            assert schema.get("minimum", example) <= example <= schema.get("maximum", example)
            seen.add(parameter["name"])
    assert {"name", "skip", "limit", "timeout_s", "trial", "version", "confirm", "max_gflops"} <= seen


def test_errors_name_the_code_that_they_stand_under(service: Any) -> None:
    """Those that are asked for here are answered in the words of their examples."""
    asked = {
        401: service.http.get(f"{service.address}/metrics", headers={"Authorization": ""}),
        422: service.api("GET", "/studies?limit=1"),
        415: service.api("POST", "/studies", content=b"", headers={"Content-Type": "text/plain"}),
        413: service.api("POST", "/studies", content=b" " * 2**21, headers={"Content-Type": "text/yaml"}),
        400: service.api("POST", "/studies", content=b"name: [unclosed", headers={"Content-Type": "text/yaml"}),
    }
    for code, answer in asked.items():
        assert answer.status_code == code
        shown = TypeAdapter(errors.ErrorBody).validate_python(examples.ERRORS[code]).error
        told = errors.ErrorBody.model_validate(answer.json()).error
        assert (told.place, told.message[:30]) == (shown.place, shown.message[:30])
        assert told.model_fields_set == shown.model_fields_set


def test_the_study_that_is_shown_can_be_created() -> None:
    shown = models.StudyModel.model_validate(examples.STUDY)
    assert make_spec(shown.spec, "example").name == shown.name == examples.FRONT["study"]
