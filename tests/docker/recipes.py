"""The recipes of docker/ as data: compose.yaml with its variables filled in, and every command that starts `ztp`.

Knows how compose interpolates. Ignores what the commands do.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parents[2] / "docker"
VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")


def compose(environment: Mapping[str, str] | None = None, file: str = "compose.yaml") -> dict[str, Any]:
    """A compose file as Docker reads it. A variable without value or default is a KeyError: compose would warn."""
    known = environment or {}

    def fill(match: re.Match[str]) -> str:
        name, default = match.groups()
        return known[name] if default is None else known.get(name) or default

    document: dict[str, Any] = yaml.safe_load(VARIABLE.sub(fill, (FOLDER / file).read_text()))
    for service in document["services"].values():
        for name, value in (service.get("environment") or {}).items():
            assert value is not None, f"{name} must be quoted: without a value it would be the host's own"
    return document


def manifests() -> list[dict[str, Any]]:
    return [each for each in yaml.safe_load_all((FOLDER / "kubernetes.yaml").read_text()) if each]


def containers() -> dict[str, dict[str, Any]]:
    """The one container of every Kubernetes workload, by the workload's name."""
    pods = {each["metadata"]["name"]: each["spec"]["template"]["spec"] for each in manifests() if is_workload(each)}
    for pod in pods.values():
        assert len(pod["containers"]) == 1
    return {name: pod["containers"][0] for name, pod in pods.items()}


def is_workload(manifest: Mapping[str, Any]) -> bool:
    return manifest["kind"] in ("Deployment", "Job", "StatefulSet")


def commands() -> dict[str, list[str]]:
    """Arguments of `ztp` wherever docker/ starts it, by file and place; also those that the README tells to type."""
    found = {
        f"compose.yaml: {name}": [str(part) for part in service["command"]]
        for name, service in compose()["services"].items()
        if "build" in service
    }
    found |= {f"kubernetes.yaml: {name}": container["args"] for name, container in containers().items()}
    (line,) = re.findall(r"^exec ztp (.*)$", (FOLDER / "slurm.sbatch").read_text(), re.MULTILINE)
    found["slurm.sbatch"] = shlex.split(line.replace('"$@"', "any-study"))
    text = (FOLDER / "README.md").read_text()
    typed = re.findall(r"(?:^|`)ztp ([a-z-][^\n`|#]*)", text, re.MULTILINE)
    for number, command in enumerate(typed):
        found[f"README.md: {number}: {command.strip()}"] = shlex.split(command)
    return found
