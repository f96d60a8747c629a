"""Everything a request can get wrong: a code, and one error whose message is the command line's.

Each row is one mistake. To add one: a row in the table it belongs to.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from search.server.middleware import MAX_BODY

YAML, JSON = "text/yaml", "application/json"
LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)

BODIES: list[Any] = [
    (YAML, b"name: [unclosed", 400, None, "study:1:16: must be valid YAML"),
    (YAML, b"name: a\nname: b\n", 400, None, "key 'name' stands twice; remove one"),
    (YAML, b"\xff\xfe", 400, None, "study: must be UTF-8 text"),
    (YAML, LAUGHS.encode(), 400, None, "aliases must not expand to more than"),
    (YAML, b"&a [*a]", 400, None, "aliases must not expand"),
    (YAML, b"[" * 5000, 400, None, "must be valid YAML"),
    (YAML, b"name: !!python/object/apply:os.system [id]", 400, None, "could not determine a constructor"),
    (YAML, b"", 422, None, "study: a study must be a mapping with name and backbone, got None"),
    (YAML, b"name: a\nbackbone: {name: demo}\nbudgets: {}\n", 422, "budgets", "did you mean budget?"),
    (
        YAML,
        b"name: a\nbackbone: {name: demo}\nbudget: {trials: 0}\n",
        422,
        "budget.trials",
        "must be at least 1, got 0",
    ),
    (YAML, b'name: "a\\0b"\nbackbone: {name: demo}\n', 422, "name", "must be letters, digits"),
    (YAML, b'name: a\nbackbone: {name: "\\ud800"}\ndata: {path: x}\n', 422, "backbone.name", "study: backbone.name"),
    (YAML, b"name: 2020-01-01\nbackbone: {name: demo}\n", 422, "name", "name must be text"),
    (JSON, b"{", 400, None, "study:1:2: must be valid JSON"),
    (JSON, b"", 400, None, "study:1:1: must be valid JSON"),
    (JSON, b'{"name": "a", "name": "b"}', 400, None, "key 'name' stands twice; remove one"),
    (JSON, b'{"name": NaN}', 400, None, "NaN is not a number"),
    (JSON, b"[" * 50_000, 400, None, "must be valid JSON"),
    (JSON, b"1" * 5000, 400, None, "must be valid JSON"),
    (JSON, b"[]", 422, None, "a study must be a mapping with name and backbone, got []"),
    (JSON, b'{"name": "\\ud800", "backbone": {"name": "demo"}}', 422, "name", "study: name"),
    (JSON, b'{"\\ud800": 1, "name": "a", "backbone": {"name": "demo"}}', 422, None, "must be a valid string"),
    (JSON, b'{"name": "a", "backbone": {"name": "demo"}, "budget": {"trials": 1e999}}', 422, "budget.trials", "inf"),
    ("text/plain", b"name: a", 415, "Content-Type", "must be one of application/json, application/yaml"),
    ("", b"name: a", 415, "Content-Type", "got ''"),
]


@pytest.mark.parametrize("row", BODIES, ids=lambda row: f"{row[0]} {row[1][:24]!r}")
def test_bodies(service: Any, row: Any) -> None:
    kind, body, code, place, words = row
    answer = service.api("POST", "/studies", content=body, headers={"Content-Type": kind})
    assert answer.status_code == code, answer.text
    error = answer.json()["error"]
    assert words in error["message"]
    assert error.get("place") == place


def folder_study(path: str, weights: str = "random") -> str:
    return json.dumps(
        {
            "name": "files",
            "backbone": {"name": "vit_tiny_patch16_224", "weights": weights},
            "data": {"path": path, "search_images": 2, "confirm_images": 2},
        }
    )


OUTSIDE = "must lie below a data root of the server"
PATHS: list[Any] = [
    (folder_study("/etc"), "data.path", OUTSIDE),
    (folder_study("/no/such/folder"), "data.path", OUTSIDE),  # the same words: nobody learns what is there
    (folder_study("../.."), "data.path", OUTSIDE),
    (folder_study("images/../../x"), "data.path", OUTSIDE),
    (folder_study("out/share"), "data.path", OUTSIDE),  # a link that leads out
    (folder_study("loop"), "data.path", ""),
    (folder_study("a\x00b"), "data.path", "must be printable text"),
    (folder_study("x" * 5000), "data.path", "must be at most 4,096 characters"),
    (folder_study("x" * 4000), "data.path", "must be an existing folder"),
    (folder_study("{..,..}/{..,..}/etc/{a,b}.tar"), "data.path", "must lie below a data root"),
    (folder_study("shadow.csv"), "data.path", "line 2: '/etc/shadow' must lie below a data root"),
    (folder_study("climbing.tsv"), "data.path", "line 2: '../../x.png' must lie below a data root"),
    (folder_study("linked.csv"), "data.path", "line 2: 'out/share/x.png' must lie below a data root"),
    (folder_study("nothing"), "data.path", "must be an existing folder or file"),
    (folder_study("weights.safetensors"), "data.path", "must be a folder of images, tar shards"),
    (folder_study("images", "/etc/passwd"), "backbone.weights", OUTSIDE),
    (folder_study("images", "out/share/w.pth"), "backbone.weights", OUTSIDE),
    (folder_study("images", "no.safetensors"), "backbone.weights", "existing .safetensors or .pth file"),
    (folder_study("images", "images"), "backbone.weights", "existing .safetensors or .pth file"),
]


@pytest.mark.parametrize("row", PATHS, ids=lambda row: row[0][30:150])
def test_paths_stay_below_the_data_roots(service: Any, row: Any) -> None:
    body, place, words = row
    answer = service.api("POST", "/studies", content=body, headers={"Content-Type": JSON})
    assert answer.status_code == 422
    assert answer.json()["error"]["place"] == place
    assert words in answer.json()["error"]["message"]


@pytest.mark.parametrize("path", ["images", "inside", "inside/../images", "{root}/images"])
def test_paths_below_a_root_are_stored_resolved(service: Any, data_root: Any, path: str) -> None:
    body = folder_study(path.format(root=data_root), "weights.safetensors")
    answer = service.api("POST", "/studies", content=body, headers={"Content-Type": JSON})
    assert answer.status_code in (200, 201)  # the same study, however its path is written
    assert answer.json()["spec"]["data"]["path"] == str(data_root.resolve() / "images")
    assert answer.json()["spec"]["data"]["roots"] == [str(data_root.resolve())]  # for whoever reads the images
    assert answer.json()["spec"]["backbone"]["weights"] == str(data_root.resolve() / "weights.safetensors")


REQUESTS: list[Any] = [
    ("GET", "/studies/shirt", 404, "name", "got 'shirt'; did you mean shirts?"),
    ("GET", "/studies/%00", 404, "name", "study must be"),
    ("GET", "/studies/%ff%fe", 404, "name", "study must be"),
    ("GET", "/studies/a%2Fb", 404, None, "Not Found"),
    ("GET", "/studies/" + "x" * 3000, 404, "name", "study must be"),
    ("POST", "/studies/nope/pause", 404, "name", "got 'nope'"),
    ("DELETE", "/studies/nope?confirm=nope", 404, "name", "got 'nope'"),
    ("GET", "/studies/shirts/front?version=0", 422, "version", "greater than or equal to 1, got '0'"),
    ("GET", "/studies/shirts/front?version=99", 404, "version", "front version must be in 1..7, got 99"),
    ("GET", f"/studies/shirts/front?version={10**30}", 422, "version", "version must"),
    ("GET", "/studies/shirts/front?version=x", 422, "version", "must be a valid integer"),
    ("GET", "/studies/shirts/evaluations?limit=0", 422, "limit", "got '0'"),
    ("GET", "/studies/shirts/evaluations?limit=1001", 422, "limit", "got '1001'"),
    ("GET", "/studies/shirts/evaluations?skip=-1", 422, "skip", "got '-1'"),
    ("GET", "/studies/shirts/evaluations/99", 404, "trial", "trial must be an evaluated one, got 99"),
    ("GET", "/studies/shirts/export?min_accuracy=89", 422, "min_accuracy", "got 89; write 0.89"),
    ("GET", "/studies/shirts/export?max_gflops=0", 422, "max_gflops", "max_gflops must be above 0, got 0"),
    ("GET", "/studies/shirts/export?min_speedup=nan", 422, "min_speedup", "must be above 0, got nan"),
    ("GET", "/studies/shirts/export?min_speedup=9", 422, None, "no point of the front is within min_speedup 9"),
    ("GET", "/studies/shirts/export?trial=99", 422, "trial", "must be an evaluated trial of shirts, got 99"),
    ("GET", f"/studies/shirts/export?trial={10**30}", 422, "trial", "must be an evaluated trial of shirts"),
    ("GET", "/studies/shirts/export?trial=3&max_gflops=1", 422, "trial", "limits are refused beside it, got 3"),
    ("GET", "/studies/shirts/events?timeout_s=-1", 422, "timeout_s", "got '-1'"),
    ("GET", "/studies/shirts/export?max_gflop=1", 422, "max_gflop", "got 'max_gflop'; did you mean max_gflops?"),
    ("GET", "/studies?version=1", 422, "version", "must be left out, for there are none here, got 'version'"),
    ("DELETE", "/studies/shirts", 422, "confirm", "confirm is required: the study's name again, as in ?confirm=NAME"),
    ("GET", "/studies/nobody", 404, "name", "study must be one on this server, got 'nobody'"),
    ("GET", "/nothing", 404, None, "Not Found"),
    ("PUT", "/studies", 405, None, "Method Not Allowed"),
]


@pytest.mark.parametrize("row", REQUESTS, ids=lambda row: f"{row[0]} {row[1][:60]}")
def test_requests(service: Any, row: Any) -> None:
    method, path, code, place, words = row
    answer = service.api(method, path)
    assert answer.status_code == code, answer.text
    message = answer.json()["error"]["message"]
    assert words in message
    assert "--" not in message  # parameters are named as here, not as the command line's flags
    assert answer.json()["error"].get("place") == place


def pieces(total: int) -> Any:
    """A body that is sent in pieces, so that no length is told beforehand."""
    yield from (b" " * 4096 for _ in range(total // 4096))


@pytest.mark.parametrize("body", [b" " * (MAX_BODY + 1), pieces(2 * MAX_BODY)], ids=["told", "in pieces"])
def test_large_bodies_are_refused(service: Any, body: Any) -> None:
    answer = service.api("POST", "/studies", content=body, headers={"Content-Type": YAML})
    assert answer.status_code == 413
    assert f"at most {MAX_BODY} bytes" in answer.json()["error"]["message"]


def test_a_body_of_the_largest_size_is_read(service: Any, new_study: Any) -> None:
    body = new_study("padded").ljust(MAX_BODY)
    assert service.api("POST", "/studies", content=body, headers={"Content-Type": YAML}).status_code == 201


VIT = {"name": "vit_tiny_patch16_224", "weights": "random"}


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"backbone": {**VIT, "img_size": 32}}, "study: backbone.img_size must give at least"),
        ({"backbone": {**VIT, "patch_size": 224}}, "patch_size"),
        ({"backbone": VIT, "space": {"blocks": [0, 12]}}, "space.blocks must end at 10 or below"),
        ({"backbone": VIT}, "study: data.source: demo does not fit backbone vit_tiny_patch16_224"),
        ({"backbone": {"name": "demo"}, "space": {"blocks": [0, 11]}}, "space.blocks must end at 10 or below"),
    ],
)
def test_what_a_backbone_is_asked_for_and_cannot_be_is_refused(service: Any, sections: Any, message: str) -> None:
    answer = service.api("POST", "/studies", json={"name": "unfit", "data": {"source": "demo"}, **sections})
    assert answer.status_code == 422
    assert message in answer.json()["error"]["message"]
    assert service.api("GET", "/studies/unfit").status_code == 404


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "vit_tyny_patch16_224",
            "must be a timm model or demo, got 'vit_tyny_patch16_224'; did you mean vit_tiny",
        ),
        ("resnet50", "backbone of type ResNet cannot be pruned"),
    ],
)
def test_a_backbone_that_no_worker_can_prune_is_refused(service: Any, name: str, message: str) -> None:
    study = {"name": "unprunable", "backbone": {"name": name, "weights": "random"}, "data": {"source": "demo"}}
    answer = service.api("POST", "/studies", json=study)
    assert answer.status_code == 422
    assert message in answer.json()["error"]["message"]
    assert service.api("GET", "/studies/unprunable").status_code == 404
