"""Optuna Dashboard over the store, read-only."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterable
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import optuna_dashboard

from search.errors import InputError
from search.server.access.auth import Gate
from search.server.dashboard import trial_annotations
from search.server.dashboard.plots import FrontPictures
from search.server.dashboard.readonly_storage import FrontReader
from search.server.dashboard.wsgi_auth import guarded
from search.storage.store import Store
from search.types import StudyRecord

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

READING = ("GET", "HEAD")
STUDY_PATH = re.compile(r"^/api/studies/(\d+)/?$")


def make_app(store: Store) -> WSGIApplication:
    """The dashboard as a WSGI application that only reads and whose best trials are the store's front."""
    reader = FrontReader(store)
    inner: WSGIApplication = optuna_dashboard.wsgi(reader, artifact_store=FrontPictures(store))

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] not in READING:
            return _refuse(start_response)
        match = STUDY_PATH.match(environ["PATH_INFO"])
        if match is None:
            return inner(environ, start_response)
        return _study_detail(inner, reader.front_trials(int(match[1])), environ, start_response)

    return app


def _refuse(start_response: StartResponse) -> list[bytes]:
    body = json.dumps({"reason": "this dashboard is read-only"}).encode()
    headers = [("Content-Type", "application/json"), ("Allow", ", ".join(READING)), ("Content-Length", str(len(body)))]
    start_response("405 Method Not Allowed", headers)
    return [body]


def _study_detail(
    inner: WSGIApplication, front: set[int], environ: WSGIEnvironment, start_response: StartResponse
) -> list[bytes]:
    """Answer with the dashboard's own answer, but for its best trials, which ignore constraints and ties."""
    status, headers, body = _call(inner, environ)
    if status.startswith("200 ") and body:
        detail = json.loads(body)
        trials = detail["trials"]
        if environ.get("QUERY_STRING"):  # "after=N" leaves the first trials out, and some of them may be the best
            trials = json.loads(_call(inner, {**environ, "QUERY_STRING": ""})[2])["trials"]
        detail["best_trials"] = [trial for trial in trials if trial["number"] in front]
        body = json.dumps(detail).encode()
        headers = [(name, value) for name, value in headers if name.lower() != "content-length"]
        headers.append(("Content-Length", str(len(body))))
    start_response(status, headers)
    return [body]


def _call(app: WSGIApplication, environ: WSGIEnvironment) -> tuple[str, list[tuple[str, str]], bytes]:
    answer: list[Any] = []

    def start(status: str, headers: list[tuple[str, str]], exc_info: object = None) -> Any:
        answer[:] = [status, headers]

    body = app(dict(environ), start)
    try:
        content = b"".join(body)
    finally:
        if hasattr(body, "close"):
            body.close()
    return answer[0], answer[1], content


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """One line per request, several a second: nobody reads it."""


def make_dashboard(store: Store, host: str, port: int, gate: Gate | None = None) -> WSGIServer:
    """A server bound to its address, not yet serving. port 0 takes a free one. Raises InputError if it cannot bind.

    gate: who may look; None for everybody.
    """
    app = make_app(store) if gate is None else guarded(make_app(store), gate)
    try:
        return make_server(host, port, app, server_class=_Server6 if ":" in host else _Server, handler_class=_Quiet)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        rule = f"must be an address of this machine and a free port: {reason}"
        remedy = "choose another port, or 0 for any free one"
        raise InputError(f"--host {host} --port {port}", rule, remedy=remedy) from None


def serve(server: WSGIServer, host: str) -> None:
    """Print the address and answer until Ctrl-C."""
    try:
        print(f"http://{host}:{server.server_port}/dashboard  (Ctrl-C ends it)", flush=True)
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        server.server_close()


def publish(store: Store, study: StudyRecord) -> None:
    """Write the notes and the plot into the database, for those who open it with a plain `optuna-dashboard`.

    Only what changed is written: each attribute is a commit of its own.
    """
    front = store.front(study.id)
    if front is None:
        return
    storage = store.optuna_storage()
    study_id = storage.get_study_id_from_name(study.name)
    trial_ids = {trial.number: trial._trial_id for trial in storage.get_all_trials(study_id, deepcopy=False)}
    wanted = trial_annotations.attributes(study, front, store.evaluations(study.id), trial_ids)
    stored = storage.get_study_system_attrs(study_id)
    left_over = [key for key in stored if key not in wanted and key.startswith(trial_annotations.prefixes(wanted))]
    for key, value in {**dict.fromkeys(left_over, ""), **wanted}.items():
        if stored.get(key) != value:
            storage.set_study_system_attr(study_id, key, value)
