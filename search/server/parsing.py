"""A study that came as the body of a request: YAML or JSON, parsed strictly; it names only what it may."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn

from pruning.backbone_names import DEMO
from pruning.checkpoints.names import folder_of, hub_id_of
from pruning.errors import ConfigError
from pruning.yaml_io import parse_yaml
from search.config.notify import check_allowed
from search.config.spec import StudySpec, check_files, make_spec
from search.errors import InputError
from search.samplers.custom import check_sampler
from search.server.allowed_roots import check_tables, within_roots
from search.server.errors import JSON_TYPE, ServiceError

YAML_TYPES = ("application/yaml", "application/x-yaml", "text/yaml", "text/x-yaml")
BODY = "study"  # what messages call the document
CHECK_S = 60.0
CHECK = """
import json, sys
from pruning.errors import PruningError
from search.config.spec import make_spec
from search.errors import InputError
from search.runtime.feasibility import check_sketch
try:
    check_sketch(make_spec(json.loads(sys.argv[1]), ""))
except (InputError, PruningError) as error:
    print(json.dumps(InputError.of([error]).to_dict()))
"""


def parse_study(
    body: bytes, content_type: str, roots: Sequence[Path], samplers: Sequence[str], webhook_hosts: Sequence[str]
) -> StudySpec:
    """Raises ServiceError (400, 415) for what cannot be read, InputError for what breaks a rule."""
    spec = make_spec(_parse(body, content_type.partition(";")[0].strip().lower()), BODY)
    check_sampler(spec, samplers)
    check_allowed(spec.notify.webhook, webhook_hosts, spec.name)
    resolved = within_roots(spec, roots)
    check_tables(resolved)  # first: of what lies outside, nobody learns whether it is there
    check_files(resolved)
    check_backbone(resolved)
    return resolved


def check_backbone(spec: StudySpec) -> None:
    """Raises InputError for a timm model that does not exist, or cannot be pruned as it is asked for: no worker could
    do anything with it.

    Of another size, say, or with blocks that it does not have. Folders and models of a hub are the workers' matter.
    """
    name, given = spec.backbone.name, spec.to_dict()
    if (name == DEMO and spec.space.blocks is None) or folder_of(name) or hub_id_of(name):
        return
    # what refuses a sketch, and no more: studies that differ otherwise are not asked about twice
    backbone = {key: value for key, value in given["backbone"].items() if key not in ("weights", "weights_key")}
    asked = {"name": BODY, "backbone": backbone, "space": {key: given["space"][key] for key in ("methods", "blocks")}}
    asked["data"] = {"source": DEMO} if spec.data.path is None else {"path": "elsewhere"}
    if refusal := _refusal(json.dumps(asked, sort_keys=True)):
        raise InputError.from_dict(json.loads(refusal)).within(BODY)


_ASKING = threading.Lock()  # a process each takes seconds and hundreds of megabytes


@lru_cache(maxsize=1024)
def _refusal(study: str) -> str:
    """Why a backbone cannot be pruned, as JSON; empty if it can, or if that cannot be found out here.

    By a process of its own, once a backbone and its blocks, one after the other: with torch in it the server would be
    as large as a worker.
    """
    command = [sys.executable, "-c", CHECK, study]
    with _ASKING, suppress(OSError, subprocess.TimeoutExpired):
        asked = subprocess.run(command, capture_output=True, text=True, timeout=CHECK_S, check=False)
        return asked.stdout.strip() if asked.returncode == 0 else ""
    return ""


def _parse(body: bytes, media_type: str) -> Any:
    if media_type not in (*YAML_TYPES, JSON_TYPE):
        taken = ", ".join((JSON_TYPE, *YAML_TYPES))
        raise ServiceError(415, InputError("Content-Type", f"must be one of {taken}", repr(media_type)))
    try:
        text = body.decode("utf-8")
        return parse_json(text) if media_type == JSON_TYPE else parse_yaml(text, BODY)
    except UnicodeDecodeError:
        raise ServiceError(400, InputError("", "must be UTF-8 text", source=BODY)) from None
    except ConfigError as error:
        raise ServiceError(400, InputError.of([error])) from None


def parse_json(text: str) -> Any:
    """Strict: no key twice, no NaN. Raises ConfigError with line and column."""
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{BODY}:{error.lineno}:{error.colno}: must be valid JSON: {error.msg}") from None
    except (RecursionError, ValueError) as error:  # nested too deep, a number with thousands of digits
        raise ConfigError(f"{BODY}: must be valid JSON: {error}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    seen = dict(pairs)
    if len(seen) < len(pairs):
        twice = next(key for i, (key, _) in enumerate(pairs) if key in dict(pairs[:i]))
        raise ConfigError(f"{BODY}: must be valid JSON: key {twice!r} stands twice; remove one")
    return seen


def _no_constant(name: str) -> NoReturn:
    raise ConfigError(f"{BODY}: must be valid JSON: {name} is not a number; write null for no limit")
