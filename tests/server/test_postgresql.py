"""The service on PostgreSQL: the same answers, and the password of its URL nowhere."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa

PASSWORD = "s3cret-p4ssword"


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    """URL of a real PostgreSQL, with a user who has a password."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it complains about a missing XDG_RUNTIME_DIR
        import pgserver

    with tempfile.TemporaryDirectory() as folder:
        running = pgserver.get_server(folder, cleanup_mode="delete")
        uri = sa.make_url(running.get_uri())
        engine = sa.create_engine(uri.set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql(f"CREATE ROLE team LOGIN SUPERUSER PASSWORD '{PASSWORD}'")
            connection.exec_driver_sql("CREATE DATABASE studies OWNER team")
        engine.dispose()
        yield uri.set(drivername="postgresql", username="team", password=PASSWORD, database="studies").render_as_string(
            hide_password=False
        )
        running.cleanup()


def test_it_serves_and_shows_the_password_to_nobody(
    start: Any, database: str, new_study: Callable[[str], str], wait_for: Callable[..., Any]
) -> None:
    service = start(database, "--workers", 0)
    yaml = {"Content-Type": "text/yaml"}
    answers = [
        service.api("POST", "/studies", content=new_study("shirts"), headers=yaml),
        service.api("POST", "/studies/shirts/stop"),
        *(
            service.api("GET", path)
            for path in ("/studies", "/studies/shirts", "/studies/shirts/spec", "/openapi.json")
        ),
        *(service.api("GET", path) for path in ("/studies/nope", "/studies/%00", "/studies/shirts/front", "/nothing")),
        service.api("POST", "/studies", content=new_study("shirts").replace("8", "9"), headers=yaml),
        *(service.http.get(path) for path in ("/", "/health", "/metrics", "/cards/shirts")),
        *(service.http.get(path) for path in ("/api/studies", "/api/studies/1", "/api/meta")),
    ]
    assert [answer.status_code for answer in answers[:2]] == [201, 200]
    assert all(answer.status_code < 500 for answer in answers)
    assert "one on this server, got 'nope'" in answers[6].text  # where the database is, is nobody's business
    for answer in answers:
        assert PASSWORD not in answer.text + str(answer.headers), answer.url
    assert service.end() == 0
    assert PASSWORD not in service.said()
    assert PASSWORD not in " ".join(map(str, service.process.args))


def test_a_wrong_password_is_refused_without_being_shown(database: str, ztp: Callable[..., Any]) -> None:
    for url, hidden in (
        (f"postgresql://team:{PASSWORD}@127.0.0.1:1/db", "team:***@"),
        (f"postgresql://team@127.0.0.1:1/db?password={PASSWORD}", "password=HIDDEN"),
    ):
        for command in (("serve", "--port", "0"), ("list",)):
            ran = ztp(*command, "--storage", url)
            assert (ran.code, ran.out) == (2, "")
            assert hidden in ran.err
            assert PASSWORD not in ran.err
