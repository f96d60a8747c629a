"""`ztp serve` as a process: the API on one port, the dashboard on another, local workers beside them."""

from __future__ import annotations

import logging
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from wsgiref.simple_server import WSGIServer

import uvicorn
from fastapi import FastAPI

from search import logs
from search.errors import InputError
from search.runtime.supervisor import Supervisor
from search.server.access.auth import Gate
from search.server.access.token import Token, check_host
from search.server.allowed_roots import check_roots
from search.server.app import make_app
from search.server.dashboard import make_dashboard
from search.storage.store import Store

LOG = logging.getLogger(__name__)
BACKLOG = 512
GRACE_S = 5  # for answers under way when the server is asked to end


@dataclass(frozen=True)
class Settings:
    """host, port: of the API; port 0 for any free one. dashboard_port: None for no dashboard.

    dashboard_url: its address for browsers, None for the host they came by and that port.
    """

    host: str
    port: int
    dashboard_port: int | None
    workers: int
    token: Token | None
    data_roots: tuple[Path, ...] = ()
    dashboard_url: str | None = None


class _Server(uvicorn.Server):
    """Tells the event streams that it closes, or it would wait for them to end."""

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self._app = app

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._app.state.closing.set()
        super().handle_exit(sig, frame)


def serve(store: Store, settings: Settings) -> None:
    """Answer until SIGINT or SIGTERM. Raises InputError for settings that cannot be, before anything is started."""
    check_host(settings.host, settings.token)
    logs.hide(settings.token.secret if settings.token else None)
    roots, gate = check_roots(settings.data_roots), Gate(settings.token)
    with ExitStack() as stack:
        listening = stack.enter_context(_listen(settings.host, settings.port))
        port = None
        if settings.dashboard_port is not None:
            board = make_dashboard(store, settings.host, settings.dashboard_port, gate)
            port = board.server_port
            stack.enter_context(_in_thread(board))
        app = make_app(store, gate, roots, port, settings.dashboard_url)
        stack.enter_context(Supervisor(store.url, settings.workers))
        _announce(settings, listening.getsockname()[1], port)
        _run(app, [listening])


def _run(app: FastAPI, sockets: Sequence[socket.socket]) -> None:
    config = uvicorn.Config(
        app,
        log_config=None,  # its lines go where ours go
        log_level="warning",
        access_log=False,
        server_header=False,
        ws="none",
        timeout_graceful_shutdown=GRACE_S,
        h11_max_incomplete_event_size=32 * 1024,
    )
    before = signal.signal(signal.SIGTERM, lambda number, frame: None)
    try:
        with suppress(KeyboardInterrupt):  # uvicorn raises the signal again once it has ended; workers are still to end
            _Server(config, app).run(sockets=list(sockets))
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _listen(host: str, port: int) -> Iterator[socket.socket]:
    """A bound socket. Raises InputError if the address cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        if not 0 <= port < 2**16:  # else `create_server` leaves its socket open
            raise OSError(0, "port must be 0-65535")
        made = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        reason = error.strerror or error
        rule = f"must be an address of this machine and a free port: {reason}"
        remedy = "choose another port, or 0 for any free one"
        raise InputError(f"--host {host} --port {port}", rule, remedy=remedy) from None
    with made:
        yield made


@contextmanager
def _in_thread(server: WSGIServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.2}, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _announce(settings: Settings, port: int, dashboard_port: int | None) -> None:
    """Addresses to stdout, what to know about them to stderr."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    print(f"http://{host}:{port}/  (API under /api/v1, Ctrl-C ends it)", flush=True)
    if dashboard_port is not None:
        print(f"http://{host}:{dashboard_port}/dashboard", flush=True)
    if settings.token is None:
        logs.say("ztp: no token (ZTP_TOKEN, --token-file): it listens on loopback alone")
    if not settings.workers:
        logs.say("ztp: --workers 0: studies wait until `ztp worker --keep-waiting` runs somewhere")
