"""The Dockerfile: linted, and carried out line by line in a throw-away root, up to a `ztp` that runs there."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import sysconfig
import threading
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "docker" / "Dockerfile"


def load(name: str) -> ModuleType:
    """A helper beside this file: tests are no package."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


image = load("image")
INSTRUCTIONS = image.read(DOCKERFILE)
needs_root = pytest.mark.skipif(
    not image.can_mount() and not os.environ.get("CI"), reason="a throw-away root needs root and mount namespaces"
)


def values(name: str, stage: int | None = None) -> list[str]:
    return [each.value for each in INSTRUCTIONS if each.name == name and stage in (None, each.stage)]


def test_hadolint_finds_nothing() -> None:
    ran = subprocess.run(["hadolint", "--no-color", DOCKERFILE], capture_output=True, text=True, check=False)
    assert (ran.stdout, ran.returncode) == ("", 0)


def install_torch(tmp_path: Path, variant: str, index: str) -> subprocess.CompletedProcess[str]:
    """The line that does it, with a pip that prints its arguments."""
    (line,) = [value for value in values("RUN") if "VARIANT" in value]
    pip = tmp_path / "pip"
    pip.write_text('#!/bin/sh\necho "pip $*"\n')
    pip.chmod(0o755)
    variables = {"PATH": os.environ["PATH"], "VARIANT": variant, "CPU_INDEX": index}
    command = ["/bin/sh", "-c", line.replace("/opt/ztp/bin/pip", str(pip))]
    return subprocess.run(command, env=variables, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("variant", "index", "asked", "warned"),
    [
        ("cpu", "", "pip install torch torchvision\n", True),
        ("cpu", "http://h/cpu", "pip install --index-url http://h/cpu torch torchvision\n", False),
        ("cuda", "", "pip install torch torchvision\n", False),
        ("cuda", "http://h/cpu", "pip install torch torchvision\n", False),
    ],
)
def test_where_torch_comes_from_is_said(tmp_path: Path, variant: str, index: str, asked: str, warned: bool) -> None:
    ran = install_torch(tmp_path, variant, index)
    assert (ran.returncode, ran.stdout) == (0, asked)
    assert ran.stderr.startswith("WARNING: VARIANT=cpu without CPU_INDEX: ") == warned
    assert bool(ran.stderr) == warned


class Health(BaseHTTPRequestHandler):
    """Answers with the server's `code`."""

    def do_GET(self) -> None:
        self.send_response(self.server.code if self.path == "/health" else 404)  # type: ignore[attr-defined]
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(("code", "healthy"), [(200, True), (503, False)])
def test_the_health_check_passes_on_what_the_service_says(code: int, healthy: bool) -> None:
    (value,) = values("HEALTHCHECK")
    python, *arguments = json.loads(value[value.index("[") :])
    assert python == "python3"
    with HTTPServer(("127.0.0.1", 0), Health) as server:
        server.code = code  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        elsewhere = [each.replace(":8000/", f":{server.server_port}/") for each in arguments]
        assert elsewhere != arguments
        ran = subprocess.run([sys.executable, *elsewhere], capture_output=True, text=True, check=False, timeout=60)
        server.shutdown()
        thread.join()
    assert (ran.returncode == 0) == healthy, ran.stderr
    assert ("HTTP Error 503" in ran.stderr) == (not healthy)


class TestHygiene:
    def test_the_base_is_pinned_by_tag_and_the_same_everywhere(self) -> None:
        (base,) = [value.partition("=")[2] for value in values("ARG", -1) if value.startswith("PYTHON_IMAGE=")]
        assert re.fullmatch(r"python:3\.\d+-slim-\w+", base)
        assert [value.split()[0] for value in values("FROM")] == ["${PYTHON_IMAGE}"] * 2
        (labels,) = values("LABEL")
        assert f'base.name="{base}"' in labels

    def test_its_python_is_one_we_support(self) -> None:
        (base,) = [value.partition("=")[2] for value in values("ARG", -1) if value.startswith("PYTHON_IMAGE=")]
        major, minor = map(int, re.findall(r"\d+", base)[:2])
        assert (major, minor) >= (3, 11)

    def test_who_runs_is_not_root_and_a_number(self) -> None:
        user, group = values("USER")[-1].split(":")
        assert user.isdigit()
        assert group.isdigit()
        assert int(user) >= 10_000  # no user of a host has it

    def test_one_entry_point_and_no_shell_between(self) -> None:
        assert values("ENTRYPOINT") == ['["ztp"]']
        assert values("STOPSIGNAL") == ["SIGTERM"]

    def test_no_cache_and_no_secret_stays(self) -> None:
        assert any("PIP_NO_CACHE_DIR=1" in value for value in values("ENV", 0))
        text = DOCKERFILE.read_text()
        for word in ("TOKEN", "PASSWORD", "SECRET", "apt-get install"):
            assert word not in text.upper().replace("APT-GET INSTALL", "apt-get install") or word not in text

    def test_standard_labels(self) -> None:
        (labels,) = values("LABEL")
        for name in ("title", "description", "licenses", "version", "revision", "base.name"):
            assert f"org.opencontainers.image.{name}=" in labels

    def test_the_context_holds_what_is_copied_and_no_more(self) -> None:
        rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
        allowed = {rule[1:] for rule in rules if rule.startswith("!")}
        copied = {part for value in values("COPY", 0) for part in value.split()[:-1]}
        assert rules[0] == "*"
        assert copied == allowed
        for secret in ("search/x.db", "studies/ztp.db-wal", "pruning/__pycache__"):
            assert any(fnmatch(secret, rule.replace("**/", "*/")) for rule in rules[1:])

    def test_its_version_is_the_packages(self) -> None:
        import tomllib

        released = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
        assert f"VERSION={released}" in values("ARG", 1)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Every instruction carried out; our package is really installed, its dependencies are this environment's.

    pip reads PIP_NO_DEPS from the environment as --no-deps, so the RUN lines are the file's own. torch is asked for
    by PIP_DRY_RUN: five gigabytes are left to the drill.
    """
    ours = {"PIP_NO_DEPS": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_BUILD_ISOLATION": "0"}
    ours["PYTHONPATH"] = sysconfig.get_paths()["purelib"]
    ours |= {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    builder = image.Builder(tmp_path_factory.mktemp("image"), ROOT, ours | {"VARIANT": "cuda"})
    for instruction in INSTRUCTIONS:
        if "install torch" in instruction.value:
            builder.image.variables["PIP_DRY_RUN"] = "1"
        builder.carry_out(instruction)
        builder.image.variables.pop("PIP_DRY_RUN", None)
    return builder


@needs_root
class TestCarriedOut:
    def test_every_run_line_was(self, built: Any) -> None:
        assert built.ran == values("RUN")

    def test_the_entry_point_is_there_and_runs(self, built: Any) -> None:
        assert (built._folder / "upper/opt/ztp/bin/ztp").exists()
        ran = built.run([*built.image.entry, "--version"])
        assert (ran.returncode, ran.stdout.split()[0]) == (0, "ztp"), ran.stderr

    def test_without_arguments_it_helps(self, built: Any) -> None:
        ran = built.run([*built.image.entry, *built.image.command])
        assert (ran.returncode, "launch" in ran.stdout) == (0, True), ran.stderr

    def test_it_is_the_code_of_the_image_that_runs(self, built: Any) -> None:
        code = "import search, sys; print(search.__file__)"
        ran = built.run(["/opt/ztp/bin/python", "-I", "-c", code])
        assert ran.stdout.startswith("/opt/ztp/lib/"), ran.stderr

    def test_its_user_writes_where_volumes_go_and_nowhere_else(self, built: Any) -> None:
        assert built.run(["id", "-u"]).stdout.strip() == "10001"
        for folder, writable in (("/cache", True), ("/work", True), ("/data", False), ("/opt/ztp", False)):
            ran = built.run(["touch", f"{folder}/probe"])
            assert (ran.returncode == 0) == writable, folder

    def test_a_store_is_made_and_looked_at(self, built: Any) -> None:
        storage = {"ZTP_STORAGE": "sqlite:////work/ztp.db"}
        assert "no tables -> " in built.run(["ztp", "db", "upgrade"], **storage).stdout
        ran = built.run(["ztp", "list"], **storage)
        assert ran.returncode == 0, ran.stderr

    def test_the_health_check_follows_the_answer(self, built: Any) -> None:
        ran = built.run(built.image.health)
        assert ran.returncode != 0
        assert "refused" in ran.stderr.lower()

    def test_the_files_that_ship_are_in_it(self, built: Any) -> None:
        code = "from importlib.resources import files as f; print((f('studies')/'demo/backbone.safetensors').is_file())"
        assert built.run(["/opt/ztp/bin/python", "-I", "-c", code]).stdout.strip() == "True"

    @pytest.mark.parametrize(("variant", "words"), [("tpu", "VARIANT must be cpu or cuda, got tpu")])
    def test_another_variant_is_refused(self, built: Any, variant: str, words: str) -> None:
        (line,) = [value for value in values("RUN") if "VARIANT" in value]
        ran = built.run(["/bin/sh", "-c", line], user="0", VARIANT=variant)
        assert (ran.returncode, words in ran.stderr) == (1, True)

    def test_the_cpu_variant_asks_its_index(self, built: Any) -> None:
        (line,) = [value for value in values("RUN") if "VARIANT" in value]
        nowhere = "http://127.0.0.1:1/cpu"
        ran = built.run(
            ["/bin/sh", "-c", line], user="0", VARIANT="cpu", CPU_INDEX=nowhere, PIP_RETRIES="0", PYTHONPATH=""
        )
        assert ran.returncode != 0
        assert nowhere in ran.stdout + ran.stderr


@needs_root
@pytest.mark.drill
def test_the_whole_image_is_built_and_its_ztp_is_sound(tmp_path: Path) -> None:
    """Every RUN line without a short cut: torch and all dependencies are installed, and `ztp doctor` runs on them."""
    pip = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    builder = image.Builder(tmp_path, ROOT, pip | {"VARIANT": "cuda"})
    for instruction in INSTRUCTIONS:
        builder.carry_out(instruction)
    assert builder.ran == values("RUN")
    storage = {"ZTP_STORAGE": "sqlite:////work/ztp.db"}
    assert builder.run(["ztp", "db", "upgrade"], **storage).returncode == 0
    ran = builder.run(["ztp", "doctor"], **storage)
    assert (ran.returncode, "fail" in ran.stdout) == (0, False), ran.stdout + ran.stderr
