"""Where the end of a study is posted: the section `notify` of its YAML, and which addresses are taken."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from pydantic import field_validator

from search.config.sections import Section
from search.config.validation_messages import SpecRuleError
from search.errors import InputError
from search.logs import HIDDEN

if TYPE_CHECKING:
    import httpx

WEBHOOK, ALLOWED_HOSTS = "ZTP_WEBHOOK", "ZTP_ALLOW_WEBHOOK_HOSTS"


class NotifySpec(Section):
    """webhook: the http:// or https:// URL that is told of the study's end (see `search.runtime.webhook`)."""

    webhook: str | None = None

    @field_validator("webhook")
    @classmethod
    def _is_an_address(cls, url: str | None) -> str | None:
        return None if url is None else check_webhook(url, "")


def check_webhook(url: str, place: str) -> str:
    """The URL. Raises InputError, which does not show it whole, for what cannot be posted to."""
    parsed = _parse(url)
    if parsed is None or parsed.scheme not in ("http", "https") or not parsed.host:
        raise SpecRuleError(place, "must be an http:// or https:// URL with a host", shown_webhook(url))
    return url


def read_webhook() -> str | None:
    """The URL for studies that name none, from the environment. Raises InputError."""
    url = os.environ.get(WEBHOOK, "")
    return check_webhook(url, WEBHOOK) if url else None


def shown_webhook(url: str) -> str:
    """Scheme, host and port alone: user, path and query may be secrets."""
    parsed = _parse(url)
    if parsed is None or not parsed.host:
        return HIDDEN
    return f"{parsed.scheme}://{parsed.host}{'' if parsed.port is None else f':{parsed.port}'}/{HIDDEN}"


def check_hosts(flags: Iterable[str]) -> tuple[str, ...]:
    """The hosts that studies may name, by flags and the environment. Raises InputError for what is none."""
    hosts = [("--allow-webhook-host", host) for host in flags]
    hosts += [(ALLOWED_HOSTS, host) for host in os.environ.get(ALLOWED_HOSTS, "").replace(",", " ").split()]
    known = []
    for place, host in hosts:
        parsed = _parse(f"http://{host}/")
        if parsed is None or not parsed.host or str(parsed.copy_with(host="host")) != "http://host/":
            raise InputError(place, "must be a host name or address, without scheme, port and path", repr(host))
        known.append(parsed.host)
    return tuple(dict.fromkeys(known))


def check_allowed(url: str | None, hosts: Collection[str], study: str) -> None:
    """Raise InputError for a webhook on a host that is not among `hosts`: who posts a study must not make this machine
    send to wherever it can reach."""
    parsed = _parse(url or "")
    if url is not None and (parsed is None or parsed.host not in hosts):
        rule = f"must be on a host that the operator allows ({', '.join(hosts) or 'none is listed'})"
        remedy = f"see --allow-webhook-host and {ALLOWED_HOSTS}"
        raise InputError("notify.webhook", rule, shown_webhook(url), remedy, source=study)


def _parse(url: str) -> httpx.URL | None:
    """As it is read by what sends, so that both see the same host; None for what is no URL."""
    import httpx  # only now: for a tenth of a second

    try:
        return httpx.URL(url) if url.isprintable() else None
    except httpx.InvalidURL:
        return None
