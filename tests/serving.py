"""`ztp serve` or `ztp dashboard` as a process of its own on a free port: what tests and drills talk to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

TOKEN = "a-token-for-tests-0123456789"


@dataclass
class Service:
    """A running server. Its address is what it printed."""

    process: subprocess.Popen[str]
    errors: Path
    address: str
    storage: str
    token: str | None = None
    _http: list[httpx.Client] = field(default_factory=list)

    @property
    def http(self) -> httpx.Client:
        """A client with the token."""
        if not self._http:
            headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
            self._http.append(httpx.Client(base_url=self.address, headers=headers, timeout=60))
        return self._http[0]

    def api(self, method: str, path: str, **options: Any) -> httpx.Response:
        return self.http.request(method, f"/api/v1{path}", **options)

    def said(self) -> str:
        return self.errors.read_text()

    def end(self, by: signal.Signals = signal.SIGINT) -> int:
        for http in self._http:
            http.close()
        if self.process.poll() is None:
            self.process.send_signal(by)
        try:
            return self.process.wait(60)
        finally:
            self.process.kill()
            if self.process.stdout:
                self.process.stdout.close()


def start_service(
    folder: Path, storage: str, *flags: object, token: str | None = None, command: str = "serve"
) -> Service:
    """Starts `ztp serve` or `ztp dashboard`, which says where it is once it answers; whoever calls this ends it."""
    environment = {**os.environ, "ZTP_STORAGE": storage, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    environment.pop("ZTP_TOKEN", None)
    if token is not None:
        environment["ZTP_TOKEN"] = token
    errors = folder / f"errors-{time.monotonic_ns()}.txt"
    with errors.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "search.cli", command, "--port", "0", *map(str, flags)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
        )
    assert process.stdout is not None
    address = process.stdout.readline().partition("  ")[0]
    assert address.startswith("http"), errors.read_text()
    return Service(process, errors, address.removesuffix("dashboard").rstrip("/"), storage, token)
