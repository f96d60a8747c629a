"""`ztp serve` and `ztp dashboard` as processes: one application on one port, local workers beside it."""

from __future__ import annotations

import asyncio
import logging
import re
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn
from starlette.applications import Starlette

from search import logs
from search.errors import InputError
from search.server.access.token import Token
from search.storage.store import Store

if TYPE_CHECKING:
    from search.server.app import Settings

BACKLOG = 512
GRACE_S = 5  # for answers under way when the server is asked to end


class _Server(uvicorn.Server):
    """Says that it has started, and tells the event streams that it closes, or it would wait for them to end."""

    def __init__(self, config: uvicorn.Config, app: Starlette, announce: Callable[[], None]) -> None:
        super().__init__(config)
        self._app, self._announce = app, announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._announce()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._app.state.closing.set()
        super().handle_exit(sig, frame)


def serve(store: Store, settings: Settings) -> None:
    """Answer until SIGINT or SIGTERM. Raises InputError for settings that cannot be, before anything is started."""
    from search.runtime.local_workers import supervised  # only now: the dashboard alone needs neither them nor FastAPI
    from search.samplers.custom import import_class
    from search.server.allowed_roots import check_roots
    from search.server.app import make_app

    if not re.fullmatch(r"(/[\w.~-]+)*", settings.root_path, re.ASCII):
        rule = "must be the path before the server's own, such as /ztp"
        raise InputError("--root-path", rule, repr(settings.root_path), "begin it with a slash and end it without one")
    settings = replace(settings, data_roots=check_roots(settings.data_roots))
    for path in settings.samplers:
        import_class(path, "--allow-sampler")
    with _listen(settings.host, settings.port) as listening:
        app = make_app(store, settings)
        with supervised(store.url, settings.workers, settings.samplers):
            _run(app, listening, settings.token, lambda: _announce(settings, listening))


def serve_dashboard(store: Store, host: str, port: int, token: Token | None) -> None:
    """Optuna Dashboard alone, until SIGINT or SIGTERM. Raises InputError for an address that cannot be."""
    from search.server.dashboard.application import make_dashboard

    with _listen(host, port) as listening:
        greeting = f"{_address(host, listening)}/dashboard  (Ctrl-C ends it)"
        _run(make_dashboard(store, token), listening, token, lambda: print(greeting, flush=True))


def _run(app: Starlette, listening: socket.socket, token: Token | None, announce: Callable[[], None]) -> None:
    logs.hide(token.secret if token else None)
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
    logging.getLogger("uvicorn.error").addFilter(_is_worth_saying)
    before = signal.signal(signal.SIGTERM, lambda number, frame: None)
    try:
        with suppress(KeyboardInterrupt):  # uvicorn raises the signal again once it has ended; workers are still to end
            _Server(config, app, announce).run(sockets=[listening])
    finally:
        signal.signal(signal.SIGTERM, before)


def _is_worth_saying(record: logging.LogRecord) -> bool:
    """Not the traceback of an answer that is given up because the server ends: uvicorn says how many there were."""
    return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))


@contextmanager
def _listen(host: str, port: int) -> Iterator[socket.socket]:
    """A bound socket. Raises InputError if the address cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        if not 0 <= port < 2**16:  # else `create_server` leaves its socket open
            raise OSError(0, "port must be 0-65535")
        listening = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        reason = error.strerror or error
        rule = f"must be an address of this machine and a free port: {reason}"
        remedy = "choose another port, or 0 for any free one"
        raise InputError(f"--host {host} --port {port}", rule, remedy=remedy) from None
    with listening:
        yield listening


def _address(host: str, listening: socket.socket) -> str:
    return f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}"


def _announce(settings: Settings, listening: socket.socket) -> None:
    """What to know of the service to stderr, then its address to stdout: whoever reads that finds the rest written."""
    if settings.token is None:
        logs.say("ztp: no token (ZTP_TOKEN, --token-file): it listens on loopback alone")
    if not settings.workers:
        logs.say("ztp: --workers 0: studies wait until `ztp worker --keep-waiting` runs somewhere")
    address = _address(settings.host, listening)
    print(f"{address}/  (API under /api/v1, Optuna Dashboard under /dashboard, Ctrl-C ends it)", flush=True)
