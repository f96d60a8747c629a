"""The command of `ztp` that stays: `serve`."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from search.cli.options import DEFAULT_STORAGE, Storage, TokenFile, option, whole_number
from search.errors import InputError
from search.extras import check_extra

MAX_WORKERS = 256
ONE_PORT = "Optuna Dashboard is at /dashboard of --port, behind the same token"
OLD_VARIABLES = ("ZTP_DASHBOARD_URL", "ZTP_DASHBOARD_PORT")


def serve(
    port: Annotated[int, whole_number("PORT", "Where it listens; 0 for any free port.")] = 8000,
    dashboard_port: Annotated[str | None, typer.Option(hidden=True)] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; any but loopback needs a token.")] = "127.0.0.1",
    root_path: Annotated[
        str, option("PATH", "Path under which a reverse proxy shows page and API, such as /ztp.")
    ] = "",
    workers: Annotated[int, whole_number("N", "Local processes that work on open studies; 0 for none.")] = 1,
    data_root: Annotated[list[Path] | None, option("DIR", "Folder that studies may read; may be given again.")] = None,
    allow_sampler: Annotated[
        list[str] | None, option("MODULE:CLASS", "Sampler class that studies may name; may be given again.")
    ] = None,
    webhook: Annotated[
        str | None,
        typer.Option(
            envvar="ZTP_WEBHOOK", metavar="URL", help="Told by POST of the end of studies that name no webhook."
        ),
    ] = None,
    allow_webhook_host: Annotated[
        list[str] | None, option("HOST", "Host to which studies may have their end posted; may be given again.")
    ] = None,
    token_file: TokenFile = None,
    storage: Storage = DEFAULT_STORAGE,
) -> None:
    """Serve studies over HTTP: API, page, metrics, Optuna Dashboard and local workers, until Ctrl-C."""
    from search.config.notify import WEBHOOK, check_hosts, check_webhook
    from search.samplers.custom import allowed_classes, check_paths
    from search.server.access.token import check_host, read_token

    check_extra("ztp serve", "serve")
    if dashboard_port is not None:
        raise InputError("--dashboard-port", "must be left out", dashboard_port, ONE_PORT)
    for variable in OLD_VARIABLES:
        if os.environ.get(variable, "").strip():
            raise InputError(variable, "must be unset: the page links to its own port", remedy=ONE_PORT)
    if not 0 <= workers <= MAX_WORKERS:
        raise InputError("--workers", f"must be in 0..{MAX_WORKERS}", workers)
    samplers = check_paths(allow_sampler or (), "--allow-sampler") + (allowed_classes() or ())
    hosts = check_hosts(allow_webhook_host or ())
    if webhook:
        os.environ[WEBHOOK] = check_webhook(webhook, "--webhook")  # workers inherit it
    token = read_token(token_file)
    check_host(host, token)

    from search.runtime.webhook import notifying
    from search.server.app import Settings  # only now: the web framework and Optuna, for a second
    from search.server.server import serve
    from search.storage.store import Store

    with closing(notifying(Store.open(storage))) as store:
        serve(store, Settings(host, port, workers, token, tuple(data_root or ()), root_path, samplers, hosts))
