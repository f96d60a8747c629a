"""compose.yaml, kubernetes.yaml and slurm.sbatch: valid by their schemas, complete, hardened, and of one mind."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import parse_qs, urlsplit

import click
import pytest
import typer

from search.cli import app
from search.server.app import Settings, make_app
from search.storage.store import Store

sys.path.insert(0, str(Path(__file__).parent))
recipes: ModuleType = __import__("recipes")
sys.path.pop(0)

FOLDER = recipes.FOLDER
COMPOSE = recipes.compose()
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if "build" in service}
CONTAINERS: dict[str, dict[str, Any]] = recipes.containers()
KNOWN = {command.name for command in app.registered_commands}


@pytest.mark.parametrize("place", recipes.commands())
def test_every_command_is_one_that_ztp_knows(place: str) -> None:
    """Parsed by the command line itself, down to the last flag, without being run."""
    arguments = recipes.commands()[place]
    root = typer.main.get_command(app)
    assert isinstance(root, click.Group) or hasattr(root, "resolve_command")
    context: Any = root.make_context("ztp", [], resilient_parsing=True)
    while hasattr(root, "resolve_command"):
        if arguments[0] == "serve" and "serve" not in KNOWN:
            pytest.skip("this release has no `ztp serve` yet")
        if arguments[0].startswith("--"):
            arguments = arguments[1:]
            continue
        _, root, arguments = root.resolve_command(context, list(arguments))
    assert root is not None
    root.make_context("ztp", [re.sub(r"^[A-Z.]+$", "1", each) for each in arguments], parent=context)


REQUESTS = re.findall(r"^curl .*$", (FOLDER / "README.md").read_text(), re.MULTILINE)


@pytest.mark.parametrize("line", REQUESTS)
def test_every_request_is_one_that_the_api_knows(store: Store, line: str) -> None:
    """By its description: method, path and parameters, those that are required among them."""
    words = shlex.split(line)
    method = words[words.index("--request") + 1] if "--request" in words else "POST" if "--data-binary" in words else ""
    address = urlsplit(words[-1])
    paths = make_app(store, Settings("127.0.0.1", port=0, workers=0, token=None)).openapi()["paths"]
    (path,) = [each for each in paths if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", each), address.path)]
    known = [each for each in paths[path][(method or "GET").lower()].get("parameters", ()) if each["in"] == "query"]
    given = set(parse_qs(address.query))
    assert {each["name"] for each in known if each["required"]} <= given <= {each["name"] for each in known}


def test_a_study_is_created_and_deleted_there() -> None:
    assert sum("--data-binary" in each for each in REQUESTS) == 1
    assert sum("--request DELETE" in each for each in REQUESTS) == 1


class TestCompose:
    @pytest.mark.parametrize("file", ["compose.yaml", "compose.cuda.yaml"])
    def test_valid_by_the_specifications_schema(self, file: str) -> None:
        command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", FOLDER / file]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stdout

    def test_the_schema_does_refuse(self, tmp_path: Path) -> None:
        (tmp_path / "compose.yaml").write_text("services: {a: {image: x, restarts: always}}")
        command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
        ran = subprocess.run([*command, tmp_path / "compose.yaml"], capture_output=True, text=True, check=False)
        assert ran.returncode == 1
        assert "restarts" in ran.stdout

    def test_every_variable_has_a_default_and_is_explained(self) -> None:
        text = (FOLDER / "compose.yaml").read_text()
        named = set(re.findall(r"\$\{(\w+)", text))
        assert named == {found[1] for found in recipes.VARIABLE.finditer(text) if found[2] is not None}
        assert "$" not in recipes.VARIABLE.sub("", text)
        for name in named:
            assert f"`{name}`" in (FOLDER / "README.md").read_text(), name

    @pytest.mark.parametrize(("environment", "index"), [({}, ""), ({"CPU_INDEX": "http://h/cpu"}, "http://h/cpu")])
    def test_the_build_asks_the_index_that_is_named(self, environment: dict[str, str], index: str) -> None:
        services = recipes.compose(environment)["services"].values()
        builds = [service["build"] for service in services if "build" in service]
        assert [build["args"]["CPU_INDEX"] for build in builds] == [index] * len(builds)

    def test_references_resolve(self) -> None:
        for name, service in SERVICES.items():
            for secret in service.get("secrets", []):
                assert secret in COMPOSE["secrets"], name
            for needed, how in service.get("depends_on", {}).items():
                assert needed in SERVICES, name
                if how["condition"] == "service_healthy":
                    assert "test" in SERVICES[needed]["healthcheck"]
            for volume in service.get("volumes", []):
                source = volume.split(":")[0]
                assert source in COMPOSE["volumes"] or source.startswith((".", "/")), volume
        used = {secret for service in SERVICES.values() for secret in service.get("secrets", [])}
        assert used == set(COMPOSE["secrets"])
        mounted = {volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", [])}
        assert set(COMPOSE["volumes"]) <= mounted

    def test_files_that_are_read_are_mounted(self) -> None:
        """Whatever path a command or the environment names is a secret, a volume or in the image."""
        for name, service in OURS.items():
            there = {f"/run/secrets/{secret}" for secret in service["secrets"]}
            there |= {volume.split(":")[1] for volume in service.get("volumes", [])}
            values = [*service["environment"].values(), *service["command"]]
            paths = {part for value in values for part in [str(value).rpartition("=")[2]] if part.startswith("/")}
            assert paths <= there, name

    def test_the_build_finds_its_files(self) -> None:
        for service in OURS.values():
            context = (FOLDER / service["build"]["context"]).resolve()
            assert (context / service["build"]["dockerfile"]).is_file()
            assert (context / "pyproject.toml").is_file()

    def test_no_secret_is_in_the_file(self) -> None:
        for name, service in SERVICES.items():
            for variable, value in service["environment"].items():
                if re.search("PASSWORD|TOKEN", variable):
                    assert variable.endswith("_FILE"), f"{name}: {variable}"
                assert not re.search(r"://[^/@]*:[^/@]*@", str(value)), f"{name}: {variable}"

    @pytest.mark.parametrize("name", OURS)
    def test_our_containers_are_hardened(self, name: str) -> None:
        service = OURS[name]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert "no-new-privileges:true" in service["security_opt"]
        assert service["init"] is True
        assert "privileged" not in service
        assert all(":ro" in volume for volume in service.get("volumes", []) if ":/data" in volume)

    def test_nothing_answers_the_network_unless_asked_to(self) -> None:
        published = [port for service in SERVICES.values() for port in service.get("ports", [])]
        assert all(port.startswith("127.0.0.1:") for port in published)
        assert "ports" not in SERVICES["database"]
        opened = recipes.compose({"ZTP_BIND": "0.0.0.0"})["services"]["service"]["ports"]
        assert all(port.startswith("0.0.0.0:") for port in opened)

    def test_everything_stays_up_and_the_upgrade_ends(self) -> None:
        policies = {name: service["restart"] for name, service in SERVICES.items()}
        assert policies.pop("upgrade").startswith("on-failure")
        assert set(policies.values()) == {"unless-stopped"}
        for name in ("service", "worker"):
            assert SERVICES[name]["depends_on"]["upgrade"]["condition"] == "service_completed_successfully"
            assert int(SERVICES[name]["stop_grace_period"].rstrip("s")) > 10  # a trial is handed back within ten

    @pytest.mark.parametrize(("environment", "count"), [({}, 2), ({"ZTP_WORKERS": "8"}, 8)])
    def test_workers_are_counted_by_the_environment(self, environment: dict[str, str], count: int) -> None:
        assert recipes.compose(environment)["services"]["worker"]["deploy"]["replicas"] == count

    def test_the_cuda_file_is_about_services_that_exist(self) -> None:
        extra = recipes.compose(file="compose.cuda.yaml")["services"]
        assert set(extra) <= set(SERVICES)
        (device,) = extra["worker"]["deploy"]["resources"]["reservations"]["devices"]
        assert device["capabilities"] == ["gpu"]


class TestKubernetes:
    def test_valid_by_the_apis_schemas(self) -> None:
        ran = subprocess.run(
            ["kubernetes-validate", "--strict", FOLDER / "kubernetes.yaml"], capture_output=True, text=True, check=False
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
        assert (ran.stdout + ran.stderr).count("passed") == len(recipes.manifests())

    def test_the_schemas_do_refuse(self, tmp_path: Path) -> None:
        broken = (FOLDER / "kubernetes.yaml").read_text().replace("containers:", "container:")
        (tmp_path / "broken.yaml").write_text(broken)
        ran = subprocess.run(["kubernetes-validate", tmp_path / "broken.yaml"], capture_output=True, check=False)
        assert ran.returncode != 0

    @pytest.mark.parametrize("name", CONTAINERS)
    def test_containers_are_hardened_and_measured(self, name: str) -> None:
        (manifest,) = [each for each in recipes.manifests() if each["metadata"]["name"] == name]
        pod, container = manifest["spec"]["template"]["spec"], CONTAINERS[name]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["automountServiceAccountToken"] is False
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert {"cpu", "memory"} <= set(container["resources"]["requests"])
        assert "memory" in container["resources"]["limits"]
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}

    def test_its_user_is_the_images(self) -> None:
        (user,) = re.findall(r"^USER (\d+):(\d+)$", (FOLDER / "Dockerfile").read_text(), re.MULTILINE)
        for manifest in filter(recipes.is_workload, recipes.manifests()):
            context = manifest["spec"]["template"]["spec"]["securityContext"]
            assert (str(context["runAsUser"]), str(context["runAsGroup"])) == user

    def test_selectors_find_their_pods(self) -> None:
        labels = {
            each["metadata"]["name"]: each["spec"]["template"]["metadata"]["labels"]
            for each in filter(recipes.is_workload, recipes.manifests())
        }
        for manifest in recipes.manifests():
            name, spec = manifest["metadata"]["name"], manifest.get("spec", {})
            if manifest["kind"] == "Deployment":
                assert spec["selector"]["matchLabels"].items() <= labels[name].items()
            if manifest["kind"] == "Service":
                (pod,) = [name for name, each in labels.items() if spec["selector"].items() <= each.items()]
                ports = {port["name"] for port in CONTAINERS[pod]["ports"]}
                assert {port["targetPort"] for port in spec["ports"]} == ports

    def test_its_commands_are_those_of_compose(self) -> None:
        def plain(arguments: list[str]) -> list[str]:
            return [re.sub("/run/secrets/(ztp/)?", "/run/secrets/", each) for each in arguments]

        for component in ("upgrade", "service", "worker"):
            assert plain(CONTAINERS[f"ztp-{component}"]["args"]) == plain(SERVICES[component]["command"])

    def test_its_environment_is_that_of_compose(self) -> None:
        """What one recipe passes on the other does, too; without a value it is quoted, or it would be null."""
        (shared,) = [each["data"] for each in recipes.manifests() if each["kind"] == "ConfigMap"]
        assert all(isinstance(value, str) for value in shared.values())
        older = {"ZTP_DASHBOARD_PORT"}
        for component in ("upgrade", "service", "worker"):
            container = CONTAINERS[f"ztp-{component}"]
            assert container["envFrom"] == [{"configMapRef": {"name": "ztp"}}]
            own = {each["name"]: each["value"] for each in container.get("env", [])}
            assert all(isinstance(value, str) for value in own.values())
            assert {*shared, *own} == set(SERVICES[component]["environment"]) - older
            for name in {*shared, *own} - {"OMP_NUM_THREADS"}:
                assert re.search(f"`{name}`", (FOLDER / "README.md").read_text()), name

    def test_secrets_are_made_by_hand_and_named_alike(self) -> None:
        text = (FOLDER / "kubernetes.yaml").read_text()
        made = set(re.findall(r"--from-literal=(\w+)=\.\.\.", text))
        assert made == {"database_password", "token"}
        assert set(re.findall(r"/run/secrets/ztp/(\w+)", text)) == made
        assert "kind: Secret" not in text  # a value in a manifest ends in a repository


class TestSlurm:
    SCRIPT = FOLDER / "slurm.sbatch"

    def test_shellcheck_finds_nothing(self) -> None:
        assert subprocess.run(["bash", "-n", self.SCRIPT], check=False).returncode == 0
        ran = subprocess.run(["shellcheck", self.SCRIPT], capture_output=True, text=True, check=False)
        assert (ran.stdout, ran.returncode) == ("", 0)

    def test_directives_come_before_the_first_command(self) -> None:
        """SLURM stops reading them there, without a word."""
        lines = self.SCRIPT.read_text().splitlines()
        first = next(number for number, line in enumerate(lines) if line and not line.startswith("#"))
        directives = [number for number, line in enumerate(lines) if line.startswith("#SBATCH ")]
        assert len(directives) >= 8
        assert max(directives) < first

    def test_it_leaves_time_to_hand_a_trial_back(self) -> None:
        (seconds,) = re.findall(r"^#SBATCH --signal=B:TERM@(\d+)$", self.SCRIPT.read_text(), re.MULTILINE)
        assert int(seconds) > 10

    def run(self, home: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """As SLURM starts it, with a `ztp` that writes down how it was called."""
        tool = home / "ztp-venv" / "bin" / "ztp"
        tool.parent.mkdir(parents=True)
        tool.write_text(
            f"#!{sys.executable}\nimport json, os, sys\n"
            "print(json.dumps([sys.argv[1:], dict(os.environ), os.getppid(), os.getpid()]))\n"
        )
        tool.chmod(0o755)
        known = {"PATH": os.environ["PATH"], "HOME": str(home), "SLURM_CPUS_PER_TASK": "4", **environment}
        return subprocess.run(["bash", self.SCRIPT, *arguments], env=known, capture_output=True, text=True, check=False)

    def test_it_becomes_a_worker_with_the_jobs_cores(self, tmp_path: Path) -> None:
        (tmp_path / ".ztp-password").write_text("s3cr3t")
        ran = self.run(tmp_path, "shirts", ZTP_STORAGE="postgresql://ztp@db/ztp")
        arguments, environment, parent, _ = json.loads(ran.stdout)
        assert arguments == ["worker", "shirts"]
        assert parent == os.getpid()  # exec: a signal to the job reaches the worker itself
        assert environment["OMP_NUM_THREADS"] == "4"
        assert environment["ZTP_STORAGE_PASSWORD_FILE"] == str(tmp_path / ".ztp-password")
        assert "s3cr3t" not in ran.stdout

    def test_without_a_password_file_the_url_alone_counts(self, tmp_path: Path) -> None:
        ran = self.run(tmp_path, ZTP_STORAGE="postgresql://ztp@db/ztp")
        arguments, environment, *_ = json.loads(ran.stdout)
        assert arguments == ["worker"]
        assert "ZTP_STORAGE_PASSWORD_FILE" not in environment

    def test_without_a_database_it_says_so(self, tmp_path: Path) -> None:
        ran = self.run(tmp_path)
        assert ran.returncode != 0
        assert "ZTP_STORAGE: must be the URL of the database" in ran.stderr
