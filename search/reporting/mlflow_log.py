"""Logs a study's trials and front to an MLflow server while a launch runs: the study's run, and below it one a trial.

It happens in a thread that reads the store and tries again after errors: a server that is slow or away neither delays
the study nor fails it. Loading this module does not load MLflow.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from contextlib import closing, suppress

from search import logs
from search.config.notify import check_webhook, shown_webhook
from search.errors import NoStoreError, SearchError, UnknownStudyError
from search.extras import check_extra
from search.reporting.mlflow_runs import StudyRuns
from search.storage.store import Store
from search.types import Progress

FLAG = "--mlflow"
POLL_S, MOST_PAUSE_S = 2.0, 60.0  # between two turns; after errors twice as long each time, up to the second
END_PAUSE_S = 1.0  # between two turns of a launch that ends
END_S = 10.0  # a launch that ends waits so long, at most, for a server that takes nothing
# of MLflow's client, unless the user says otherwise: nothing on stdout, nothing sent elsewhere, errors told at once
SETTINGS = {
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_CONFIGURE_LOGGING": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
}

log = logging.getLogger(__name__)


def check_mlflow(uri: str) -> None:
    """Raise InputError for what is no address of a server, and without the extra."""
    check_webhook(uri, FLAG)
    check_extra(FLAG, "mlflow")


class MlflowLog:
    """Logs the study of a launch while the block runs, from the first call on, and what is left when it ends.

    url: of the store. A block that fails before the first call logs nothing: the study may be another's.
    """

    def __init__(self, uri: str, url: str, name: str) -> None:
        self._uri, self._url, self._name = uri, url, name
        self._thread = threading.Thread(target=self._follow, name=f"mlflow {shown_webhook(uri)}", daemon=True)
        self._ending = threading.Event()
        self._answered = time.monotonic()

    def __enter__(self) -> MlflowLog:
        return self

    def __call__(self, progress: Progress | None = None) -> None:
        """As an observer of the launch: the study is there."""
        if self._thread.ident is None:
            self._thread.start()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Wait for what is left to be logged, for as long as the server takes it."""
        if kind is None:
            self()
        self._ending.set()
        self._answered = max(self._answered, time.monotonic())
        with suppress(KeyboardInterrupt):
            while self._thread.is_alive() and time.monotonic() - self._answered < END_S:
                self._thread.join(0.1)
        if self._thread.is_alive():
            log.warning("%s: given up, for this process ends; the same launch logs the rest", self._thread.name)

    def _follow(self) -> None:
        for name in ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"):
            logs.hide(os.environ.get(name))
        os.environ.update({name: os.environ.get(name, value) for name, value in SETTINGS.items()})
        target: StudyRuns | None = None
        pause_s, is_last = POLL_S, False
        while not is_last:
            is_last = self._ending.wait(0.0 if target is None else pause_s)
            try:
                with closing(Store.open(self._url, create=False)) as store:
                    target = target or StudyRuns(self._uri, store.study(self._name).id, self._note_answer)
                    target.log(store, is_last)
                if pause_s > POLL_S:
                    log.warning("%s: study %s is logged again", self._thread.name, self._name)
                pause_s = POLL_S
            except (NoStoreError, UnknownStudyError):
                return
            except Exception as error:  # any: in a thread of its own nobody else would tell, and the study goes on
                if pause_s == POLL_S:
                    log.warning("%s: study %s is not logged: %s", self._thread.name, self._name, _reason(error))
                pause_s = min(2 * pause_s, MOST_PAUSE_S)
                if is_last:
                    time.sleep(END_PAUSE_S)
                    is_last = time.monotonic() - self._answered > END_S

    def _note_answer(self) -> None:
        self._answered = time.monotonic()


def _reason(error: Exception) -> str:
    """Without the message of others, which may hold an address with a password."""
    if isinstance(error, SearchError):
        return str(error)
    status = getattr(error, "get_http_status_code", lambda: None)()
    return f"{type(error).__name__}{f', answered {status}' if status else ''}"
