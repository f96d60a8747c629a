"""A server in the place of a store: answers what `search.reporting.queries.Reader` asks, by HTTP, and creates studies.

The token comes from ZTP_TOKEN alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import httpx

from pruning.errors import PruningError
from search.config.spec import StudyRecord, StudySpec
from search.config.warm_start import without_files
from search.errors import InputError, SearchError, SpecConflictError, UnknownStudyError
from search.server.access.token import VARIABLE, read_token
from search.server.serialization import Document, to_study
from search.storage.evaluations import MAX_TRIAL_NUMBER
from search.types import HELD_STATES, Evaluation, Front, Progress, to_record

TIMEOUT_S = 30.0
LOOK_EVERY_S = 1.0
ONE_EACH = httpx.Limits(max_keepalive_connections=0)  # a connection a request: nothing is left open by a command
AWAY_S = 60.0  # a server that is started anew answers again within this
PAGE = 1000  # evaluations a request
ABOUT_STUDIES: dict[int, type[InputError]] = {404: UnknownStudyError, 409: SpecConflictError}

Made = TypeVar("Made")


class ServerUnavailableError(InputError):
    """Nobody answers at this address."""


class Client:
    """Studies of a server. Use as a context manager."""

    def __init__(self, url: str) -> None:
        """Raises InputError for an address that is none."""
        self.url = check_server(url)
        token = read_token(None)
        headers = {"Authorization": f"Bearer {token.secret}"} if token else {}
        self._http = httpx.Client(base_url=f"{self.url}/api/v1", headers=headers, timeout=TIMEOUT_S, limits=ONE_EACH)
        self._names: dict[int, str] = {}

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    # Reading, as a store does

    def studies(self) -> list[StudyRecord]:
        return self._get("/studies", lambda answer: [self._noted(each) for each in answer["studies"]])

    def study(self, name: str) -> StudyRecord:
        return self._get(f"/studies/{quote(name, safe='')}", self._noted)

    def progress(self, study_id: int) -> Progress:
        return self._get(self._path(study_id), lambda answer: to_record(Progress, answer["progress"]))

    def front(self, study_id: int, version: int | None = None) -> Front | None:
        chosen = {} if version is None else {"version": version}
        return self._find(f"{self._path(study_id)}/front/records", "front", Front, **chosen)

    def evaluations(self, study_id: int) -> list[Evaluation]:
        found: list[Evaluation] = []
        while True:
            path = f"{self._path(study_id)}/evaluations"
            some = self._get(
                path, lambda answer: to_record(list[Evaluation], answer["evaluations"]), skip=len(found), limit=PAGE
            )
            found += some
            if len(some) < PAGE:
                return found

    def evaluation_of_trial(self, study_id: int, trial: int) -> Evaluation | None:
        if not 0 <= trial <= MAX_TRIAL_NUMBER:
            return None
        return self._find(f"{self._path(study_id)}/evaluations/{trial}", "trial", Evaluation)

    # Launching

    def launch(self, spec: StudySpec) -> StudyRecord:
        """Create the study, or continue it. Raises SpecConflictError if the name is another study's.

        Exported files that it starts from are read here.
        """
        document = without_files(spec).given()
        study = self._read(self._request("POST", "/studies", json=document), self._noted)
        front = self.front(study.id) if study.state == "done" else None
        is_left = study.state in HELD_STATES or bool(front and front.is_disturbed)
        return self.resume(study.name) if is_left else study

    # Steering, as `search.storage.steering` does

    def pause(self, name: str) -> StudyRecord:
        return self._order(name, "pause")

    def resume(self, name: str) -> StudyRecord:
        return self._order(name, "resume")

    def stop(self, name: str) -> StudyRecord:
        return self._order(name, "stop")

    def rename(self, name: str, new: str) -> StudyRecord:
        return self._order(name, "rename", to=new)

    def _order(self, name: str, order: str, **params: str) -> StudyRecord:
        path = f"/studies/{quote(name, safe='')}/{order}"
        return self._read(self._request("POST", path, params=params), self._noted)

    def delete(self, name: str, force: bool = False) -> None:
        params = {"confirm": name, "force": force}
        response = self._request("DELETE", f"/studies/{quote(name, safe='')}", params=params)
        if not response.is_success:
            raise _refused(response)

    def follow(self, study_id: int, observe: Callable[[Progress], None]) -> Progress:
        """Call `observe` once a second until the study is done, paused or stopped; the last progress."""
        answered = time.monotonic()
        while True:
            try:
                progress = self.progress(study_id)
                answered = time.monotonic()
                observe(progress)
                if progress.state in ("done", *HELD_STATES):
                    return progress
            except ServerUnavailableError:
                if time.monotonic() - answered > AWAY_S:
                    raise
            time.sleep(LOOK_EVERY_S)

    def _noted(self, document: Document) -> StudyRecord:
        study = to_study(document)
        self._names[study.id] = study.name
        return study

    def _path(self, study_id: int) -> str:
        return f"/studies/{quote(self._names[study_id], safe='')}"

    def _find(self, path: str, place: str, kind: type[Made], **params: Any) -> Made | None:
        """A record; None where the server says of the place that there is none."""
        response = self._request("GET", path, params=params)
        if response.status_code == 404 and _error(response).get("place") == place:
            return None
        return self._read(response, partial(to_record, kind))

    def _get(self, path: str, make: Callable[[Document], Made], **params: Any) -> Made:
        return self._read(self._request("GET", path, params=params), make)

    def _read(self, response: httpx.Response, make: Callable[[Document], Made]) -> Made:
        """What `make` makes of an answer. Raises what the same request would raise on a store.

        InputError for an answer of another program, or of a release that answers in other fields.
        """
        if not response.is_success:
            raise _refused(response)
        try:
            return make(response.json())
        except KeyError as error:
            reason = f"its answer lacks {error}"
        except (TypeError, AttributeError, PruningError):
            reason = "its answer has another form"
        except ValueError:
            reason = f"its answer is no JSON but {response.headers.get('content-type', 'of no type')}"
        rule = "must be a ztp serve of this release"
        remedy = "check the address, what stands before the server, and that both ends have the same zero-tprune-search"
        raise InputError(f"--server {self.url}", rule, f"{response.url}: {reason}", remedy)

    def _request(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            return self._http.request(method, path, **options)
        except httpx.TransportError as error:
            reason = str(error) or type(error).__name__
            rule, remedy = f"cannot be reached: {reason}", "check that ztp serve runs there"
            raise ServerUnavailableError(f"--server {self.url}", rule, remedy=remedy) from None


def check_server(url: str) -> str:
    """The address without a slash at its end. Raises InputError; a password in it is not shown."""
    try:
        parts = urlsplit(url)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and not parts.query and parts.port != 0
    except ValueError:
        fits = False
    if "@" in url:
        remedy = f"set {VARIABLE} instead"
        raise InputError("--server", "must hold no user and no password", "an address with @", remedy)
    if not fits:
        raise InputError("--server", "must be an address such as http://127.0.0.1:8000", repr(url), "check it")
    return url.rstrip("/")


def _error(response: httpx.Response) -> Document:
    try:
        document = response.json()["error"]
        return {**document, "message": str(document["message"])}
    except (ValueError, KeyError, TypeError):  # not a server of ours: a proxy, say
        return {"message": f"{response.url} answered {response.status_code} {response.reason_phrase}"}


def _refused(response: httpx.Response) -> SearchError:
    """What the same request would raise on a store."""
    error = _error(response)
    message = error["message"]
    if response.status_code in (401, 403):
        return InputError("--server", message, remedy=f"set {VARIABLE} to the server's token")
    if response.status_code >= 500:
        return SearchError(message)
    if "rule" not in error:  # another program's
        return InputError("", message)
    if error.get("place") == "name" and response.status_code in ABOUT_STUDIES:  # whose rules name the study
        return ABOUT_STUDIES[response.status_code].from_dict({**error, "place": ""})
    return InputError.from_dict(error)
