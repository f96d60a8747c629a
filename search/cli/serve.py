"""The command of `ztp` that stays: `serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from search.cli.options import DEFAULT_STORAGE, Storage, TokenFile, whole
from search.errors import InputError
from search.extras import check_extra

MAX_WORKERS = 256


def serve(
    port: Annotated[
        int, typer.Option(parser=whole, metavar="PORT", help="Where the API listens; 0 for any free port.")
    ] = 8000,
    dashboard_port: Annotated[
        int, typer.Option(parser=whole, metavar="PORT", help="Where Optuna Dashboard listens; -1 for none.")
    ] = 8080,
    host: Annotated[str, typer.Option(help="Address to listen on; any but loopback needs a token.")] = "127.0.0.1",
    workers: Annotated[
        int, typer.Option(parser=whole, metavar="N", help="Local processes that work on open studies; 0 for none.")
    ] = 1,
    data_root: Annotated[
        list[Path] | None, typer.Option(metavar="DIR", help="Folder that studies may read; may be given again.")
    ] = None,
    token_file: TokenFile = None,
    storage: Storage = DEFAULT_STORAGE,
) -> None:
    """Serve studies over HTTP: API, front page, metrics, Optuna Dashboard and local workers, until Ctrl-C."""
    from search.server.access.token import check_host, read_token
    from search.server.dashboard_url import read_dashboard_url

    check_extra("ztp serve", "serve")
    if not 0 <= workers <= MAX_WORKERS:
        raise InputError("--workers", f"must be in 0..{MAX_WORKERS}", workers)
    token = read_token(token_file)
    check_host(host, token)
    dashboard_url = read_dashboard_url()

    from search.server.server import Settings, serve  # only now: the web framework and Optuna, for a second
    from search.storage.store import Store

    board = None if dashboard_port == -1 else dashboard_port
    store = Store.open(storage)
    try:
        serve(store, Settings(host, port, board, workers, token, tuple(data_root or ()), dashboard_url))
    finally:
        store.close()
