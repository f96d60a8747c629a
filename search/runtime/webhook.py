"""Tells a webhook of the end of a study: one JSON document by POST, sent by the process that changed the state.

It is sent in the background: a receiver that is slow or away neither delays the study nor fails it.
"""

from __future__ import annotations

import atexit
import logging
import time
from contextlib import suppress
from functools import partial
from threading import Thread
from typing import Any

from search.config.notify import read_webhook, shown_webhook
from search.config.spec import StudyRecord
from search.storage.point_document import point_document
from search.storage.store import Store

ANSWER_S = 5.0  # to connect, to send, and to wait for the answer's first line
PAUSES_S = (0.0, 0.5, 2.0, 5.0)  # before each attempt
END_S = 10.0  # a process that ends waits so long, at most, for what it still sends
PASSING = (408, 425, 429)  # answers below 500 after which another attempt may succeed

log = logging.getLogger(__name__)
_sending: list[Thread] = []


def notifying(store: Store) -> Store:
    """The same store, of which each study that it ends is told to the study's webhook, else to that of the environment.

    Raises InputError for an environment that is wrong.
    """
    store.tasks.on_end = partial(_tell, store, read_webhook())
    return store


def wait() -> None:
    """Until what is being sent has been delivered or given up, END_S at most. Called when the interpreter ends."""
    deadline = time.monotonic() + END_S
    with suppress(KeyboardInterrupt):
        for thread in _sending:
            thread.join(max(0.0, deadline - time.monotonic()))
    for thread in _sending:
        if thread.is_alive():
            log.warning("%s: given up, for this process ends", thread.name)
    _sending.clear()


def _tell(store: Store, default: str | None, study_id: int) -> None:
    try:
        study = store.study_of_id(study_id)
        url = study.spec.notify.webhook or default
        if url is None:
            return
        name = f"webhook {shown_webhook(url)} for study {study.name}"
        thread = Thread(target=_deliver, args=(url, _document(store, study), name), name=name, daemon=True)
        thread.start()
    except Exception as error:  # any: the study has ended all the same
        log.warning("study %d: its webhook was not told of its end: %s", study_id, type(error).__name__)
        return
    _sending[:] = [*(earlier for earlier in _sending if earlier.is_alive()), thread]
    atexit.unregister(wait)
    atexit.register(wait)


def _document(store: Store, study: StudyRecord) -> dict[str, Any]:
    progress = store.progress(study.id)
    return {
        "study": study.name,
        "state": progress.state,
        "note": progress.note,
        "trials": {"done": progress.done, "total": progress.total},
        "front_size": progress.front_size,
        "hypervolume": progress.hypervolume,
        "best": point_document(progress.best) if progress.best else None,
        "export": f"ztp export {study.name} -o {study.name}-best.yaml" if progress.best else None,
    }


def _deliver(url: str, document: dict[str, Any], name: str) -> None:
    import httpx  # only now: for a tenth of a second

    failure = ""
    for pause in PAUSES_S:
        time.sleep(pause)
        try:
            # redirects are not followed, and the answer's body is not read
            with httpx.stream("POST", url, json=document, timeout=ANSWER_S, follow_redirects=False) as response:
                status = response.status_code
        except Exception as error:  # any: in a thread of its own nobody else would tell
            failure = f"{type(error).__name__}: {error}"
            continue
        if status < 300:
            return
        failure = f"answered {status}"
        if status < 500 and status not in PASSING:
            break
    log.warning("%s: not delivered: %s", name, failure)
