"""Optuna Dashboard over the store, read-only: what it reads, what it shows of a front, and its routes."""
