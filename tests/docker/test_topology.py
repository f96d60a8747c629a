"""The services of compose.yaml, started by hand: its commands, its environment, its secrets, a real PostgreSQL.

What Docker would add - images, networks, mounts - is replaced by paths and ports of this machine; nothing else is.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from search.cli import app

sys.path.insert(0, str(Path(__file__).parent))
recipes: ModuleType = __import__("recipes")
sys.path.pop(0)

WITH_SERVICE = "serve" in {command.name for command in app.registered_commands}
DOCKERFILE = Path(__file__).parents[2] / "docker/Dockerfile"
WORKERS = 2
PATIENCE_S = 240.0
STUDY = """name: parcel
backbone: {name: demo}
data: {source: demo, search_images: 40, confirm_images: 20}
budget: {trials: 4}
space: {methods: [tome], max_stages: 3}
runtime: {dtype: float32, batch_size: 4, prefix_cache_gib: 0.1}
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Stack:
    """compose.yaml on this machine: every path and port it names inside a container, and what stands for it here."""

    def __init__(self, folder: Path, server: Any) -> None:
        self.folder, self.document = folder, recipes.compose({"ZTP_WORKERS": str(WORKERS)})
        self.port = str(free_port())
        (folder / "secrets").mkdir()
        self.secrets = {name: secrets.token_hex(16) for name in self.document["secrets"]}
        for name, value in self.secrets.items():
            (folder / "secrets" / name).write_text(f"{value}\n")
        self._storage = self._make_database(server)
        self.processes: list[subprocess.Popen[bytes]] = []

    def _make_database(self, server: Any) -> str:
        """The user and the database of the service `database`, by password alone. Returns the URL for this machine."""
        asked = self.document["services"]["database"]["environment"]
        user, name = asked["POSTGRES_USER"], asked["POSTGRES_DB"]
        server.psql(f"CREATE ROLE {user} LOGIN PASSWORD '{self.secrets['database_password']}';")
        server.psql(f"CREATE DATABASE {name} OWNER {user};")
        (server.pgdata / "pg_hba.conf").write_text("local all postgres trust\nlocal all all scram-sha-256\n")
        server.psql("SELECT pg_reload_conf();")
        return f"/{name}?host={server.get_uri().partition('host=')[2]}"

    def environment(self, service: str) -> dict[str, str]:
        known = {
            name: self._here(str(value)) for name, value in self.document["services"][service]["environment"].items()
        }
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("ZTP_")}
        return {**inherited, **known, "ZTP_LOG_JSON": "1", "XDG_CACHE_HOME": str(self.folder), "OMP_NUM_THREADS": "1"}

    def command(self, service: str) -> list[str]:
        arguments = [self._here(part) for part in self.document["services"][service]["command"]]
        return [sys.executable, "-m", "search.cli", *arguments]

    def _here(self, text: str) -> str:
        text = text.replace("/run/secrets", str(self.folder / "secrets")).replace(
            "@database:5432/ztp", f"@{self._storage}"
        )
        text = text.replace("=/data", f"={recipes.FOLDER.parent / 'studies' / 'demo'}").replace("0.0.0.0", "127.0.0.1")
        return re.sub(r"(port=)8000$", rf"\g<1>{self.port}", text)

    def start(self, service: str) -> subprocess.Popen[bytes]:
        log = (self.folder / f"{service}-{len(self.processes)}.log").open("wb")
        with log:
            process = subprocess.Popen(
                self.command(service), env=self.environment(service), stdout=log, stderr=log, cwd=self.folder
            )
        self.processes.append(process)
        return process

    def run(self, service: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """To its end, with other arguments where they are given: `docker compose run`."""
        command = [*self.command(service)[:3], *arguments] if arguments else self.command(service)
        return subprocess.run(command, env=self.environment(service), capture_output=True, text=True, check=False)

    def logs(self) -> str:
        return "\n".join(f"--- {path.name}\n{path.read_text()[-3000:]}" for path in sorted(self.folder.glob("*.log")))

    def stop(self) -> list[int]:
        """SIGTERM to all, as `docker compose stop`; exit codes within the grace period, else it fails."""
        for process in self.processes:
            process.send_signal(signal.SIGTERM)
        try:
            return [process.wait(15) for process in self.processes]
        finally:
            for process in self.processes:
                process.kill()
                process.wait()


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it complains about a missing XDG_RUNTIME_DIR
        import pgserver

    with tempfile.TemporaryDirectory() as folder:
        server = pgserver.get_server(folder, cleanup_mode="delete")
        made = Stack(tmp_path_factory.mktemp("stack"), server)
        try:
            yield made
        finally:
            for process in made.processes:
                process.kill()
                process.wait()
            server.cleanup()


@pytest.fixture(scope="module")
def upgraded(stack: Stack) -> Stack:
    """The service that everything waits for has ended well."""
    ran = stack.run("upgrade")
    assert ran.returncode == 0, ran.stderr
    assert "ours: no tables -> " in ran.stdout
    return stack


def test_upgrade_makes_the_tables_by_the_password_of_the_file(upgraded: Stack) -> None:
    again = upgraded.run("upgrade")
    assert again.returncode == 0
    assert "ours: " in again.stdout
    assert "unchanged" in again.stdout


def test_the_database_wants_that_password(upgraded: Stack) -> None:
    file = upgraded.folder / "secrets" / "database_password"
    right = file.read_text()
    file.write_text("another\n")
    ran = upgraded.run("upgrade")
    file.write_text(right)
    (line,) = ran.stderr.splitlines()
    assert ran.returncode == 2
    assert "password authentication failed" in json.loads(line)["message"]
    assert "another" not in ran.stderr


def test_doctor_finds_the_stack_sound(upgraded: Stack) -> None:
    ran = upgraded.run("upgrade", "doctor", "--json")
    checks = {check["name"]: check for check in json.loads(ran.stdout)["checks"]}
    assert ran.returncode == 0, ran.stdout
    for name in ("database", "schema", "optuna's schema", "write speed", "clock"):
        assert checks[name]["state"] == "ok", checks[name]
    assert "PostgreSQL" in checks["database"]["found"]
    assert upgraded.secrets["database_password"] not in ran.stdout + ran.stderr


@pytest.mark.skipif(not WITH_SERVICE, reason="this release has no `ztp serve` yet")
class TestServed:
    """Service and workers, up to a study that is done."""

    def ask(self, stack: Stack, path: str, token: str | None, body: str | None = None) -> Any:
        request = urllib.request.Request(
            f"http://127.0.0.1:{stack.port}{path}",
            body.encode() if body else None,
            {"Content-Type": "application/yaml", **({"Authorization": f"Bearer {token}"} if token else {})},
        )
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    @staticmethod
    def health_check(port: str) -> int:
        """Exit code of the image's own, asked at this port."""
        (command,) = re.findall(r"^HEALTHCHECK (?:.*\\\n)*? +CMD (\[.*\])$", DOCKERFILE.read_text(), re.MULTILINE)
        return subprocess.run(
            [part.replace(":8000", f":{port}") for part in json.loads(command)], check=False
        ).returncode

    @staticmethod
    def wait(stack: Stack, what: str, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            try:
                if ready():
                    return
            except OSError:
                pass
            time.sleep(0.3)
        raise AssertionError(f"{what}: not within {PATIENCE_S:g} s\n{stack.logs()}")

    def test_a_study_is_posted_worked_on_and_everything_ends(self, upgraded: Stack) -> None:
        stack, token = upgraded, upgraded.secrets["token"]
        stack.start("service")
        self.wait(stack, "health", lambda: self.ask(stack, "/health", None)[0] == 200)
        assert self.health_check(stack.port) == 0
        assert self.health_check(str(free_port())) != 0
        assert self.ask(stack, "/api/v1/studies", None)[0] == 401
        assert [self.ask(stack, "/api/studies", each)[0] for each in (None, token)] == [401, 200]
        assert self.ask(stack, "/api/v1/studies", token, STUDY)[0] == 201
        for _ in range(stack.document["services"]["worker"]["deploy"]["replicas"]):
            stack.start("worker")

        def state() -> str:
            code, text = self.ask(stack, "/api/v1/studies/parcel", token)
            assert code == 200
            assert all(process.poll() is None for process in stack.processes), stack.logs()
            return str(json.loads(text)["state"])

        self.wait(stack, "the study", lambda: state() == "done")
        _, text = self.ask(stack, "/api/v1/studies/parcel/front", token)
        assert len(json.loads(text)["points"]) >= 1
        assert self.ask(stack, "/metrics", token)[0] == 200
        codes = stack.stop()
        assert all(code in (0, 143, -15, 130) for code in codes), (codes, stack.logs())
        for secret in stack.secrets.values():
            assert secret not in stack.logs()
