"""Optuna Dashboard over the store: `reader` is what it reads, `notes` what it shows of a front, `server` the web."""

from search.server.dashboard.server import make_app, make_dashboard, publish, serve

__all__ = ["make_app", "make_dashboard", "publish", "serve"]
