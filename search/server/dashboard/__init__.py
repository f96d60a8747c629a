"""Optuna Dashboard over the store, read-only: what it reads, what it shows of a front, and its routes."""

from search.server.dashboard.application import DashboardMiddleware, is_dashboard_path

__all__ = ["DashboardMiddleware", "is_dashboard_path"]
