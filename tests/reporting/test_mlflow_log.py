"""A study's trials and front in a real MLflow server: each once, whatever happens in between, and never at its cost."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from mlflow import MlflowClient
from mlflow.entities import Run

from search.cli import main
from search.config.spec import StudyRecord, StudySpec
from search.errors import SearchError
from search.reporting import mlflow_log
from search.reporting.mlflow_log import MlflowLog
from search.reporting.report import front_json
from search.storage.store import Store
from search.types import Evaluation
from tests.receiver import receiving

START_S = 300.0  # a server loads some seconds long, on a machine with nothing else to do
SECRET = "s3cret-word"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("mlflow")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder)]
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        address, deadline = f"http://127.0.0.1:{port}", time.monotonic() + START_S
        try:
            while True:
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < deadline, "the MLflow server does not begin"
                try:
                    httpx.get(f"{address}/health", timeout=5).raise_for_status()
                    break
                except httpx.HTTPError:
                    time.sleep(0.3)
            yield address
        finally:
            os.killpg(process.pid, signal.SIGKILL)  # those that it started, too
            process.wait(60)


@pytest.fixture(autouse=True)
def experiment(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """Each test has its own; and a server that the environment names is none of ours."""
    name = request.node.name[:100]
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", name)
    monkeypatch.setattr(mlflow_log, "POLL_S", 0.05)
    monkeypatch.setattr(mlflow_log, "END_PAUSE_S", 0.05)
    for variable, value in mlflow_log.SETTINGS.items():
        monkeypatch.setenv(variable, value)
    return name


def log(server: str, url: str, name: str = "shirts") -> None:
    """What a launch with nothing left to do does."""
    with MlflowLog(server, url, name):
        pass


def runs_of(server: str, experiment: str) -> tuple[Run | None, dict[int, Run], MlflowClient]:
    """The study's run, and those of its trials, each of which must be there once."""
    client = MlflowClient(server)
    known = client.get_experiment_by_name(experiment)
    found = client.search_runs([known.experiment_id]) if known else []
    parents = [run for run in found if "mlflow.parentRunId" not in run.data.tags]
    trials = [run for run in found if run.data.tags.get("mlflow.parentRunId") in [run.info.run_id for run in parents]]
    assert len(parents) <= 1
    assert len(trials) + len(parents) == len(found)
    by_trial = {int(run.data.tags["ztp.trial"]): run for run in trials}
    assert len(by_trial) == len(trials)
    return parents[0] if parents else None, by_trial, client


def test_trials_and_front_are_logged_once_however_often_it_is_launched(
    server: str,
    experiment: str,
    url: str,
    spec: StudySpec,
    evaluations: list[Evaluation],
    fill: Callable[..., StudyRecord],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    store = Store.open(url)
    fill(store, spec, evaluations[:5], state="stopped")
    log(server, url)
    first, trials, client = runs_of(server, experiment)
    assert first is not None
    assert sorted(trials) == [0, 1, 2, 3, 4]
    assert (first.info.run_name, first.info.status, first.data.tags["ztp.state"]) == ("shirts", "KILLED", "stopped")

    store.set_state(1, "running")
    fill(store, spec, evaluations[5:])
    log(server, url)
    log(server, url)
    run, trials, client = runs_of(server, experiment)
    assert run is not None
    assert (run.info.run_id, run.info.status) == (first.info.run_id, "FINISHED")
    assert sorted(trials) == list(range(8))
    for evaluation in evaluations:
        logged, search = trials[evaluation.trial], evaluation.search
        assert logged.info.status == "FINISHED"
        told = {name: logged.data.metrics[name] for name in ("accuracy", "throughput", "speedup", "gflops")}
        assert told == {
            "accuracy": search.accuracy.value,
            "throughput": search.throughput.images_per_s,
            "speedup": search.throughput.speedup,
            "gflops": search.gflops,
        }
        assert logged.data.params["method"] == search.schedule.method
        assert len(client.get_metric_history(logged.info.run_id, "accuracy")) == 1
    assert trials[5].data.params["schedule"] == "zero-tprune 2:0.85 5:0.85 8:0.85"
    assert trials[5].data.metrics["confirm_accuracy"] == evaluations[5].confirm.accuracy.value  # type: ignore[union-attr]
    front = store.front(1)
    assert front is not None
    kept = Path(client.download_artifacts(run.info.run_id, "front.json", str(tmp_path)))
    assert json.loads(kept.read_text()) == json.loads(json.dumps(front_json(store.study("shirts"), front)))
    volumes = [metric.value for metric in client.get_metric_history(run.info.run_id, "hypervolume")]
    assert volumes == [row[-1] for row in store.front_history(1)]
    assert [info.path for info in client.list_artifacts(run.info.run_id)] == ["front.json"]
    assert run.data.tags["ztp.front"] == ",".join(str(point.trial) for point in front.points)
    assert "demo" in run.data.params["backbone"]
    assert capfd.readouterr().out == ""  # MLflow's client would print the address
    store.close()


def test_a_renamed_study_keeps_its_run(server: str, experiment: str, store: Store, url: str) -> None:
    log(server, url)
    before, _, _ = runs_of(server, experiment)
    store.rename_study(store.study("shirts"), "blouses")
    log(server, url, "blouses")
    after, trials, _ = runs_of(server, experiment)
    assert before is not None
    assert after is not None
    assert (after.info.run_id, after.info.run_name, len(trials)) == (before.info.run_id, "blouses", 8)


def test_errors_pass_and_what_was_half_logged_is_completed(
    server: str,
    experiment: str,
    store: Store,
    url: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    real, failures = MlflowClient.log_batch, iter([False, False, True, False, True, True])

    def fail(self: MlflowClient, *given: Any, **named: Any) -> Any:
        if next(failures, False):
            raise ConnectionError(f"http://me:{SECRET}@host was away")
        return real(self, *given, **named)

    monkeypatch.setattr(MlflowClient, "log_batch", fail)
    log(server, url)
    assert next(failures, None) is None
    _, trials, client = runs_of(server, experiment)
    assert sorted(trials) == list(range(8))
    assert {run.info.status for run in trials.values()} == {"FINISHED"}
    assert {len(client.get_metric_history(run.info.run_id, "accuracy")) for run in trials.values()} == {1}
    assert "study shirts is not logged: ConnectionError" in caplog.text
    assert SECRET not in caplog.text


def test_one_of_two_launches_logs(server: str, experiment: str, store: Store, url: str) -> None:
    assert store.tasks.claim_log(1, "another", 60.0)
    assert not store.tasks.claim_log(1, "this one", 60.0)
    began = time.monotonic()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mlflow_log, "END_S", 0.5)
        log(server, url)
    assert time.monotonic() - began < 60
    assert runs_of(server, experiment)[0] is None
    assert store.tasks.claim_log(1, "another", 0.0)
    log(server, url)
    assert len(runs_of(server, experiment)[1]) == 8


def test_the_lease_leaves_the_error_that_stopped_a_study(store: Store) -> None:
    store.set_state(1, "running")
    assert store.tasks.stop_for(1, SearchError("out of memory"))
    assert store.tasks.claim_log(1, "a", 1.0)
    assert store.study("shirts").state == "stopped"


@pytest.mark.parametrize("is_silent", [False, True])
def test_a_server_that_is_away_or_silent_delays_the_end_by_its_limit_and_no_secret_is_told(
    store: Store, url: str, is_silent: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlflow_log, "END_S", 1.0)
    with receiving(is_silent=True) as silent:
        address = silent.url.replace("/hook", "")
        if not is_silent:
            silent.released.set()
        began = time.monotonic()
        log(address.replace("://", f"://me:{SECRET}@"), url)
        assert time.monotonic() - began < 60  # loading MLflow's client is most of it
    shown = f"mlflow {address}/***"
    assert f"{shown}: study shirts is not logged: " in caplog.text or f"{shown}: given up" in caplog.text
    assert SECRET not in caplog.text
    assert store.study("shirts").state == "done"


@pytest.mark.slow
def test_a_launch_logs_by_the_flag_alone(
    server: str, experiment: str, url: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    study = {
        "name": "tiny",
        "backbone": {"name": "demo"},
        "data": {"source": "demo", "search_images": 24, "confirm_images": 8},
        "budget": {"trials": 3},
        "space": {"methods": ["tome"], "max_stages": 3},
        "sampler": {"name": "random"},
        "runtime": {"batch_size": 8, "dtype": "float32", "device": "cpu"},
    }
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(study))
    command = [sys.executable, "-m", "search.cli", "launch", str(file), "--storage", url]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": server, "MLFLOW_TRACKING_TOKEN": SECRET}

    def launch(*flags: str) -> subprocess.CompletedProcess[str]:
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.run([*command, *flags], cwd=tmp_path, env=environment, check=True, timeout=600, **pipes)

    launch("--trials", "2")
    assert runs_of(server, experiment)[0] is None  # though the environment names a server
    told = launch("--mlflow", server)
    run, trials, _ = runs_of(server, experiment)
    assert run is not None
    assert (run.info.status, run.data.tags["ztp.state"]) == ("FINISHED", "done")
    store = Store.open(url)
    assert sorted(trials) == sorted(
        trial.number for trial in store.trials.find_all(1) if "measurement" in trial.user_attributes
    )
    store.close()
    assert "next: ztp export tiny" in told.stdout
    assert SECRET not in told.stdout + told.stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--mlflow", "file:///tmp/runs"], "--mlflow must be an http:// or https:// URL with a host, got ***"),
        (["--mlflow", f"me:{SECRET}@host"], "--mlflow must be an http:// or https:// URL with a host, got ***"),
        (
            ["--mlflow", "http://host:5000", "--server", "http://127.0.0.1:1"],
            "--mlflow is for a launch at a storage, got it beside --server; drop one",
        ),
    ],
)
def test_what_is_refused(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["launch", "demo", *flags])
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"ztp: {message}\n"


def test_without_the_extra_it_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("search.extras.importlib.util.find_spec", lambda package: None)
    with pytest.raises(SystemExit) as ended:
        main(["launch", "demo", "--mlflow", "http://127.0.0.1:5000"])
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert "--mlflow needs the package mlflow" in told
    assert "pip install 'zero-tprune-search[mlflow]'" in told
