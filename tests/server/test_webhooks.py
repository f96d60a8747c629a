"""Webhooks over HTTP: of posted studies those on the operator's hosts alone; the operator's own for all others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.receiver import Receiver, receiving
from tests.serving import Service

YAML = {"Content-Type": "text/yaml"}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as made:
        yield made


def post(service: Service, study: str, webhook: str) -> Any:
    return service.api("POST", "/studies", content=f"{study}notify: {{webhook: '{webhook}'}}\n", headers=YAML)


@pytest.mark.parametrize("by", ["flag", "environment"])
def test_a_posted_study_names_listed_hosts_alone(
    start: Any, url: str, new_study: Any, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, wait_for: Any, by: str
) -> None:
    if by == "environment":
        monkeypatch.setenv("ZTP_ALLOW_WEBHOOK_HOSTS", "127.0.0.1")
    service = start(url, "--workers", 0, *(["--allow-webhook-host", "127.0.0.1"] if by == "flag" else []))
    answer = post(service, new_study("socks"), "http://me:s3cret@localhost/s3cret?s3cret")
    assert answer.status_code == 422
    assert answer.json()["error"] == {
        "source": "socks",
        "place": "notify.webhook",
        "rule": "must be on a host that the operator allows (127.0.0.1)",
        "got": "http://localhost/***",
        "remedy": "see --allow-webhook-host and ZTP_ALLOW_WEBHOOK_HOSTS",
        "message": "socks: notify.webhook must be on a host that the operator allows (127.0.0.1), "
        "got http://localhost/***; see --allow-webhook-host and ZTP_ALLOW_WEBHOOK_HOSTS",
    }
    assert post(service, new_study("socks"), receiver.url).status_code == 201
    assert post(service, new_study("socks"), "http://[::1]/").status_code == 422  # nor does one that is continued
    assert service.api("POST", "/studies/socks/stop").status_code == 200
    wait_for(lambda: receiver.got)
    assert [(each["study"], each["state"], each["note"]) for each in receiver.documents] == [
        ("socks", "stopped", "by request")
    ]
    assert service.end() == 0
    assert "Traceback" not in service.said()


def test_no_host_is_listed_unless_the_operator_says_so(service: Service, new_study: Any) -> None:
    answer = post(service, new_study("socks"), "http://127.0.0.1/")
    assert answer.status_code == 422
    assert answer.json()["error"]["rule"] == "must be on a host that the operator allows (none is listed)"


@pytest.mark.slow
def test_the_servers_own_webhook_is_told_by_its_workers(
    start: Any, url: str, tiny: str, receiver: Receiver, wait_for: Callable[..., Any]
) -> None:
    service = start(url, "--workers", 2, "--webhook", receiver.url)
    assert service.api("POST", "/studies", content=tiny, headers=YAML).status_code == 201
    wait_for(lambda: receiver.got)
    assert service.api("GET", "/studies/tiny").json()["state"] == "done"
    assert "notify" not in service.api("GET", "/studies/tiny").json()["spec"]
    assert service.end() == 0
    assert [(document["study"], document["state"]) for document in receiver.documents] == [("tiny", "done")]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--webhook", "ftp://a/s3cret"], "--webhook must be an http:// or https:// URL with a host, got ftp://a/***"),
        (["--allow-webhook-host", "http://a"], "--allow-webhook-host must be a host name or address, without scheme"),
    ],
)
def test_a_flag_with_a_mistake_starts_no_server(ztp: Callable[..., Any], flags: list[str], words: str) -> None:
    ran = ztp("serve", "--port", "0", *flags)
    assert ran.code == 2
    assert words in ran.err
