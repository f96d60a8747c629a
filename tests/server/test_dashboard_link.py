"""The front page's link to Optuna Dashboard: by the host that the browser used, or as the environment says."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from search.errors import InputError
from search.server.dashboard_url import read_dashboard_url
from search.storage.store import Store

PUBLIC = "https://dashboard.example.org:8443/a&b/dashboard"


def links(address: str, path: str, **headers: str) -> list[str]:
    page = httpx.get(f"{address}{path}", headers=headers, timeout=60)
    assert page.status_code == 200
    return re.findall(r'<a href="([^"]*)"[^>]*>[^<]*[Dd]ashboard', page.text)


def test_without_a_setting_it_is_this_host_and_the_dashboards_port(start: Any, store: Store) -> None:
    service = start(store.url, "--workers", 0)
    port = service.dashboard.rpartition(":")[2]
    for path in ("/", "/cards/shirts"):
        assert set(links(service.address, path)) == {f"{service.dashboard}/dashboard"}
        assert set(links(service.address, path, Host="localhost")) == {f"http://localhost:{port}/dashboard"}


@pytest.mark.parametrize("dashboard", [True, False])
def test_the_setting_is_the_link(start: Any, store: Store, monkeypatch: pytest.MonkeyPatch, dashboard: bool) -> None:
    monkeypatch.setenv("ZTP_DASHBOARD_URL", PUBLIC)
    service = start(store.url, "--workers", 0, dashboard=dashboard)  # False: it runs elsewhere, by `ztp dashboard`
    for path in ("/", "/cards/shirts"):
        assert set(links(service.address, path)) == {PUBLIC.replace("&", "&amp;")}


@pytest.mark.parametrize(
    "url", ["host:8080", "javascript:alert(1)", "ftp://host", "http://", "http://h:x", "http://h/a b", "http://é.org"]
)
def test_what_is_no_address_is_refused(ztp: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("ZTP_DASHBOARD_URL", url)
    ran = ztp("serve", "--port", "0")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("ztp: ZTP_DASHBOARD_URL must be an address such as https://")
    assert repr(url) in ran.err


def test_a_password_in_it_is_refused_unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZTP_DASHBOARD_URL", "https://me:s3cr3t@host")
    with pytest.raises(InputError, match="must hold no user and no password") as error:
        read_dashboard_url()
    assert "s3cr3t" not in str(error.value)


@pytest.mark.parametrize("unset", ["", "  "])
def test_an_empty_setting_is_none(monkeypatch: pytest.MonkeyPatch, unset: str) -> None:
    monkeypatch.setenv("ZTP_DASHBOARD_URL", unset)
    assert read_dashboard_url() is None
