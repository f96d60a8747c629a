"""Where Optuna Dashboard is for a browser: behind TLS, a proxy or a mapped port, a server cannot know that itself."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from search.errors import InputError

DASHBOARD_VARIABLE = "ZTP_DASHBOARD_URL"


def read_dashboard_url() -> str | None:
    """The address that ZTP_DASHBOARD_URL names, else None. Raises InputError for one that a link cannot hold."""
    url = os.environ.get(DASHBOARD_VARIABLE, "").strip()
    if not url:
        return None
    try:
        parts = urlsplit(url)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        fits = False
    if "@" in url:
        raise InputError(DASHBOARD_VARIABLE, "must hold no user and no password", "an address with @", "remove them")
    if not fits or not url.isascii() or not url.isprintable() or " " in url:
        rule = "must be an address such as https://dashboard.example.org/dashboard"
        raise InputError(DASHBOARD_VARIABLE, rule, repr(url), "check it, or unset it")
    return url
