"""A server that takes connections and never answers: given up after a limit, not waited for."""

from __future__ import annotations

import socket
import time

import pytest

from search.errors import SearchError
from search.storage import database
from search.storage.database import LIMITS
from search.storage.store import Store


@pytest.mark.parametrize("scheme", ["postgresql", "mysql"])
def test_silence_counts_as_gone(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    short = {name: 2 if "timeout" in name else value for name, value in LIMITS[database.DRIVERS[scheme]].items()}
    monkeypatch.setitem(LIMITS, database.DRIVERS[scheme], short)
    with socket.create_server(("127.0.0.1", 0)) as server:
        began = time.monotonic()
        with pytest.raises(SearchError, match=r"timeout|timed out"):
            Store.open(f"{scheme}://somebody@127.0.0.1:{server.getsockname()[1]}/ztp")
        assert time.monotonic() - began < 30
