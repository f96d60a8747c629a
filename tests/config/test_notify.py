"""The section `notify`: which addresses it takes, what errors show of them, and that it may change."""

from __future__ import annotations

from typing import Any

import pytest

from search.config.continuation import continued_spec, differences
from search.config.notify import check_allowed, check_hosts, shown_webhook
from search.config.spec import StudySpec, make_spec
from search.errors import InputError

URL = "https://hooks.example.org/in?key=1"


def spec(**sections: Any) -> StudySpec:
    return make_spec({"name": "socks", "backbone": {"name": "demo"}, **sections}, "test")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("ftp://me:s3cret@example.org/s3cret?s3cret#s3cret", "ftp://example.org/***"),
        ("//example.org/s3cret", "://example.org/***"),
        ("s3cret", "***"),
        ("", "***"),
        ("https:///s3cret", "***"),
        ("http://example.org:s3cret/", "***"),
    ],
)
def test_what_cannot_be_posted_to_is_refused_without_its_secrets(url: str, shown: str) -> None:
    with pytest.raises(InputError) as refused:
        spec(notify={"webhook": url})
    assert str(refused.value) == f"test: notify.webhook must be an http:// or https:// URL with a host, got {shown}"


def test_user_path_and_query_are_hidden() -> None:
    assert shown_webhook("https://me:word@example.org:8443/a/b?key=1#c") == "https://example.org:8443/***"


def test_it_may_change_and_is_no_part_of_what_is_compared() -> None:
    plain, told, other = spec(), spec(notify={"webhook": URL}), spec(notify={"webhook": "http://other/"})
    assert "notify" not in plain.to_dict()  # services that know none take it
    assert make_spec(told.to_dict(), "test") == told
    for stored in (plain, told):
        assert differences(stored, other) == []
        assert continued_spec(stored, other).notify.webhook == "http://other/"
    assert continued_spec(told, plain) == told  # it says nothing of it
    assert continued_spec(told, spec(notify={"webhook": None})).notify.webhook is None


class TestHosts:
    def test_of_flags_and_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("ZTP_ALLOW_WEBHOOK_HOSTS", "b.example.org, [::1]")
        assert check_hosts(["A.example.org", "b.example.org"]) == ("a.example.org", "b.example.org", "::1")

    @pytest.mark.parametrize("host", ["https://a", "a/b", "a:8080", "me@a", "a?b", ""])
    def test_that_are_none(self, host: str) -> None:
        with pytest.raises(InputError, match="--allow-webhook-host must be a host name or address, without"):
            check_hosts([host])

    @pytest.mark.parametrize(
        "url", [URL, "http://HOOKS.example.org:99/", "http://me:a@hooks.example.org", "http://[::1]/a"]
    )
    def test_that_are_listed(self, url: str) -> None:
        check_allowed(url, ("hooks.example.org", "::1"), "socks")

    @pytest.mark.parametrize(
        "url",
        [
            "http://127.0.0.1/",
            "http://hooks.example.org.evil.org/",
            "http://hooks.example.org@evil.org/",
            "http://evil.org\\@hooks.example.org.evil.org/",
            "http://evil.org#@hooks.example.org/",
            "http://evil.org/hooks.example.org",
            "http://sub.hooks.example.org/",
            "http://[::2]/",
        ],
    )
    def test_that_are_not(self, url: str) -> None:
        with pytest.raises(InputError, match=r"socks: notify\.webhook must be on a host that the operator allows"):
            check_allowed(url, ("hooks.example.org", "::1"), "socks")

    def test_none_is_asked_for(self) -> None:
        check_allowed(None, (), "socks")
