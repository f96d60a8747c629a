"""Optuna's side of the store: its storage on the same database, and a study's counterpart there.

Loading this module loads Optuna (0.3 s), which commands that only read our tables do without: `fronts` imports it late.
"""

from __future__ import annotations

import time
import warnings
from contextlib import suppress
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, RDBStorage
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from search.attribute_keys import STUDY_ID
from search.storage.compatibility import optuna_problem, optuna_writer
from search.storage.database import engine_options, explained, search_errors, try_idle
from search.storage.urls import storage_error

METRIC_NAMES = ["accuracy", "throughput"]  # both maximised, in the order of a trial's values
CREATION_TRIES = 10
CREATION_PAUSE_S = 0.2


def create_optuna_tables(url: URL) -> None:
    """Make Optuna's tables where they are missing, and disconnect. Raises InputError like `open_optuna`.

    Two processes that do this at once may collide in any statement; the next try finds the tables.
    """
    for left in reversed(range(CREATION_TRIES)):
        try:
            # NullPool: a constructor that fails half-way leaves no connection open
            _open(url, poolclass=NullPool)
            return
        except (SQLAlchemyError, StorageInternalError) as error:
            if not left:
                with explained(url):
                    raise error.__cause__ or error from None
            time.sleep(CREATION_PAUSE_S)


def open_optuna(url: URL) -> RDBStorage:
    """Optuna's storage, its tables made already, with the same settings as ours.

    Raises SearchError if the database cannot be opened, InputError if its schema is another Optuna's.
    """
    with search_errors(url):
        return _open(url)


def log_as_we_do() -> None:
    """Optuna's warnings go through our log, in the form that was chosen; it would announce every study on stderr."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    optuna.logging.disable_default_handler()
    optuna.logging.enable_propagation()


def connect(url: URL, **options: Any) -> RDBStorage:
    """Optuna's storage whatever its schema; see `open_optuna` for the checked one."""
    log_as_we_do()
    storage = RDBStorage(
        url.render_as_string(hide_password=False).replace("{", "{{").replace("}", "}}"),  # Optuna formats it
        # IMMEDIATE: Optuna reads before it writes, see `database._begin`
        engine_kwargs={**engine_options(url, begin="IMMEDIATE"), **options},
        skip_compatibility_check=True,
    )
    try_idle(storage.engine)
    return storage


def disconnect(storage: RDBStorage) -> None:
    """Give all its connections back."""
    storage.remove_session()
    storage.engine.dispose()


def _open(url: URL, **options: Any) -> RDBStorage:
    storage = connect(url, **options)
    problem = _problem(storage)
    if problem is None:
        return storage
    disconnect(storage)
    raise storage_error(url, problem)


def _problem(storage: RDBStorage) -> str | None:
    """Why these tables are not for this Optuna, and what to do; None if they are."""
    found, expected = storage.get_current_version(), storage.get_head_version()
    if found != expected:
        known = found in storage.get_all_versions()
        remedy = "run ztp db upgrade" if known else "pip install --upgrade optuna"
        return f"Optuna's schema version must be {expected}, got {found}; {remedy}"
    with storage.engine.connect() as connection:
        wrote = optuna_writer(connection)
    return optuna_problem(wrote or optuna.__version__, optuna.__version__)


def has_optuna_study(storage: BaseStorage, name: str) -> bool:
    with suppress(KeyError):
        storage.get_study_id_from_name(name)
        return True
    return False


def delete_optuna_study(storage: BaseStorage, name: str) -> None:
    """Delete the Optuna study of this name; it may be gone already."""
    with suppress(KeyError):
        storage.delete_study(storage.get_study_id_from_name(name))


def create_optuna_study(storage: BaseStorage, name: str) -> None:
    """Create the Optuna study of this name if there is none: two objectives, maximised and named."""
    study = optuna.create_study(
        storage=storage,
        study_name=name,
        directions=["maximize", "maximize"],
        load_if_exists=True,
        sampler=optuna.samplers.RandomSampler(),  # never asked; the default would be built otherwise
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if study.metric_names != METRIC_NAMES:
            study.set_metric_names(METRIC_NAMES)


def is_mirror(storage: BaseStorage, name: str) -> bool:
    """Whether Optuna's study of this name was written here: what a process that was killed left of a study, say."""
    if not has_optuna_study(storage, name):
        return False
    first = trial_id(storage, storage.get_study_id_from_name(name), 0)
    return first is not None and STUDY_ID in storage.get_trial(first).system_attrs


def trial_id(storage: BaseStorage, study_id: int, number: int) -> int | None:
    """Optuna's id of a trial; None if there is no trial of this number."""
    with suppress(KeyError):
        return storage.get_trial_id_from_study_id_trial_number(study_id, number)
    return None


def copy_optuna_study(storage: BaseStorage, name: str, new: str) -> bool:
    """Optuna's study under another name, for it has no way to rename one. False if that name is somebody else's."""
    if has_optuna_study(storage, new):
        if not is_mirror(storage, new):
            return False
        delete_optuna_study(storage, new)
    if has_optuna_study(storage, name):
        optuna.copy_study(from_study_name=name, from_storage=storage, to_storage=storage, to_study_name=new)
    else:
        create_optuna_study(storage, new)
    return True
