"""Logs: their two forms, what they carry, and what they never show."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from search import logs
from search.errors import InputError

LOGGER = logging.getLogger("search.somewhere")


class Stderr:
    """What went to stderr so far."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys, self._seen = capsys, ""

    def getvalue(self) -> str:
        self._seen += self._capsys.readouterr().err
        return self._seen


@pytest.fixture
def stream(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Stderr]:
    """stderr of this test; afterwards the log is for people again, as it was before."""
    level = logging.getLogger().level
    for name in (logs.JSON_VARIABLE, logs.LEVEL_VARIABLE):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(logs, "_secrets", set())
    yield Stderr(capsys)
    logs.set_up(False, None)
    logging.getLogger().setLevel(level)


def entries(stream: Stderr) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_message_is_one_json_object_with_time_and_place(stream: Stderr) -> None:
    logs.set_up(True, None)
    before = datetime.now(UTC)
    LOGGER.info("took %d\ntrials", 3, extra={"fields": {"trial": 7}})
    (entry,) = entries(stream)
    assert datetime.fromisoformat(entry.pop("time")) >= before.replace(microsecond=before.microsecond // 1000 * 1000)
    assert entry == {"level": "info", "logger": "search.somewhere", "message": "took 3\ntrials", "trial": 7}


def test_what_a_terminal_would_obey_is_escaped_for_people(stream: Stderr) -> None:
    logs.set_up(False, None)
    LOGGER.warning("of \x1b[2J\u202egnp.exe\nand another line")
    logs.say("ztp: wrote \x1b]0;title\x07")
    assert stream.getvalue().splitlines() == [
        r"ztp: of \x1b[2J\u202egnp.exe",
        "and another line",
        r"ztp: wrote \x1b]0;title\x07",
    ]


def test_fields_hold_inside_their_block_and_thread(stream: Stderr) -> None:
    logs.set_up(True, "info")
    with logs.fields(study="shirts"), logs.fields(worker="w1"):
        LOGGER.info("inside")
        other = threading.Thread(target=LOGGER.info, args=["elsewhere"])
        other.start()
        other.join()
    LOGGER.info("outside")
    seen = [(entry["message"], entry.get("study"), entry.get("worker")) for entry in entries(stream)]
    assert seen == [("inside", "shirts", "w1"), ("elsewhere", None, None), ("outside", None, None)]


def test_an_exception_is_within_its_line(stream: Stderr) -> None:
    logs.set_up(True, None)
    try:
        raise ZeroDivisionError("by zero")
    except ZeroDivisionError:
        LOGGER.exception("failed")
    (entry,) = entries(stream)
    assert "Traceback" in entry["exception"]
    assert "ZeroDivisionError: by zero" in entry["exception"]


@pytest.mark.parametrize(
    ("as_json", "level", "shown"),
    [
        (False, None, ["warning", "error"]),
        (True, None, ["info", "warning", "error"]),
        (False, "DEBUG", ["debug", "info", "warning", "error"]),
        (True, "error", ["error"]),
    ],
)
def test_levels(stream: Stderr, as_json: bool, level: str | None, shown: list[str]) -> None:
    logs.set_up(as_json, level)
    for name in logs.LEVELS:
        getattr(LOGGER, name)("a message of level %s", name)
    lines = stream.getvalue().splitlines()
    assert [name for name in logs.LEVELS if any(f"of level {name}" in line for line in lines)] == shown
    assert len(lines) == len(shown)


def test_an_unknown_level_is_refused(stream: Stderr) -> None:
    with pytest.raises(InputError, match="--log-level must be one of debug, info, warning, error, got 'loud'"):
        logs.set_up(False, "loud")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (
            "cannot reach postgresql://ann:s3cr3t@db:5432/ztp today",
            "cannot reach postgresql://ann:***@db:5432/ztp today",
        ),
        ("postgresql+psycopg://ann:a@b:c@db/ztp", "postgresql+psycopg://ann:***@db/ztp"),
        ("two: a://u:p@h/x and b://v:q@h/y", "two: a://u:***@h/x and b://v:***@h/y"),
        ("host=db user=ann password=s3cr3t port=1", "host=db user=ann password=*** port=1"),
        ("connect(password='s3 cr3t', port=1)", "connect(password=***, port=1)"),
        ("Authorization: Bearer s3cr3t", "Authorization: Bearer ***"),
        ("postgresql://ann@db/ztp", "postgresql://ann@db/ztp"),
        ("http://127.0.0.1:8000/studies", "http://127.0.0.1:8000/studies"),
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_secrets_in_messages_are_hidden(stream: Stderr, text: str, shown: str, as_json: bool) -> None:
    logs.set_up(as_json, None)
    LOGGER.warning("%s", text)
    (line,) = stream.getvalue().splitlines()
    assert (json.loads(line)["message"] if as_json else line.removeprefix("ztp: ")) == shown


@pytest.mark.parametrize(("level", "shown"), [("debug", ["warning"]), ("info", ["warning"]), ("error", [])])
def test_the_http_client_tells_of_trouble_alone(stream: Stderr, level: str, shown: list[str]) -> None:
    logs.set_up(True, level)
    for name in ("info", "warning"):
        getattr(logging.getLogger("httpx"), name)("HTTP Request: GET /")
    assert [entry["level"] for entry in entries(stream)] == shown


@pytest.mark.parametrize("as_json", [False, True])
def test_a_password_is_hidden_wherever_it_turns_up(stream: Stderr, as_json: bool) -> None:
    password = 'pa"ss\\wö/rd'
    logs.hide(password)
    logs.set_up(as_json, None)
    try:
        raise ValueError(f"driver says {password}")
    except ValueError:
        with logs.fields(url=["", f"x{password}"]):
            LOGGER.exception("password %s, in a URL pa%%22ss%%5Cw%%C3%%B6%%2Frd", password)
    for written in (password, json.dumps(password)[1:-1], "pa%22ss"):
        assert written not in stream.getvalue()
    assert "***" in stream.getvalue()


def test_short_passwords_do_not_eat_words(stream: Stderr) -> None:
    logs.hide("ztp")
    assert logs.redacted("ztp: postgresql://ztp:ztp@db/ztp") == "ztp: postgresql://ztp:***@db/ztp"


class TestCommandLine:
    """In a process of its own, as stderr is then nobody else's."""

    def run(self, *argv: str, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "search.cli", *argv]
        return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, check=False)

    @pytest.mark.parametrize("by_flag", [True, False])
    def test_an_error_is_a_line_too(self, by_flag: bool) -> None:
        storage = "postgresql://ann:s3cr3t-word@127.0.0.1:1/ztp"
        ran = self.run(
            *(["--log-json"] if by_flag else []),
            "list",
            ZTP_STORAGE=storage,
            **({} if by_flag else {"ZTP_LOG_JSON": "1"}),
        )
        (line,) = ran.stderr.splitlines()
        entry = json.loads(line)
        assert (ran.returncode, entry["level"]) == (2, "error")
        assert "ann:***@127.0.0.1:1/ztp: cannot be opened" in entry["message"]
        assert "s3cr3t" not in ran.stderr + ran.stdout

    def test_a_defect_of_ours_is_a_line_too(self) -> None:
        code = (
            "import search.cli.inspect as r, search.cli\n"
            "def fail(storage, server): raise ZeroDivisionError('postgresql://a:s3cr3t@h/d')\n"
            "r.open_reader = fail\n"
            "search.cli.main(['--log-json', 'list'])"
        )
        ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        entry = json.loads(ran.stderr)
        assert (ran.returncode, entry["level"]) == (1, "critical")
        assert "ZeroDivisionError" in entry["exception"]
        assert "s3cr3t" not in ran.stderr

    def test_a_level_that_is_none_is_refused(self) -> None:
        ran = self.run("--log-level", "loud", "list")
        assert (ran.returncode, ran.stdout) == (2, "")
        assert ran.stderr.startswith("ztp: --log-level must be one of debug,")
