"""The token: where it comes from, what is refused as one, and that it is never shown."""

from __future__ import annotations

import hmac
from pathlib import Path

import pytest

from search.errors import InputError
from search.server.access.token import MAX_LENGTH, Token, check_host, read_token

SECRET = "0123456789abcdef-tests"


def test_the_token_and_nothing_else_matches() -> None:
    token = Token(SECRET)
    assert token.matches(SECRET)
    for other in ("", SECRET[:-1], f"{SECRET}0", SECRET.upper(), "é" * 22, "\ud800", token.cookie):
        assert not token.matches(other)


def test_the_cookie_is_the_tokens_own_and_does_not_hold_it() -> None:
    token, other = Token(SECRET), Token(f"{SECRET}0")
    assert token.matches_cookie(token.cookie)
    for wrong in ("", SECRET, other.cookie, token.cookie[:-1], "\ud800"):
        assert not token.matches_cookie(wrong)
    assert SECRET not in token.cookie


def test_it_is_not_printed() -> None:
    assert SECRET not in f"{Token(SECRET)!r} {Token(SECRET)!s}"


@pytest.mark.parametrize(
    "secret",
    [
        *("short", SECRET[:-1], SECRET * MAX_LENGTH, "password" * 8),
        *("with space 0123456789ab", "line\nbreak-0123456789ab", "é" * 22),
    ],
)
def test_what_could_be_guessed_or_not_be_sent_is_refused_unseen(secret: str) -> None:
    with pytest.raises(InputError, match=r"token must be 22 to 1024 printable ASCII .*secrets\.token_urlsafe") as error:
        Token(secret)
    assert secret not in str(error.value)


def test_a_file_goes_before_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ZTP_TOKEN", raising=False)
    assert read_token(None) is None
    monkeypatch.setenv("ZTP_TOKEN", "")
    assert read_token(None) is None
    monkeypatch.setenv("ZTP_TOKEN", SECRET)
    assert read_token(None) == Token(SECRET)
    (tmp_path / "token").write_text("of-the-file-0123456789ab\n")
    assert read_token(tmp_path / "token") == Token("of-the-file-0123456789ab")


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "cannot be read: No such"), (b"\xff\xfe\xfd", "must be text"), (b"", "22 to 1024")],
)
def test_bad_files_are_refused(tmp_path: Path, content: bytes | None, words: str) -> None:
    if content is not None:
        (tmp_path / "token").write_bytes(content)
    with pytest.raises(InputError, match=words):
        read_token(tmp_path / "token")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org", "", "127.0.0.1.example.org"])
def test_others_are_let_in_with_a_token_alone(host: str) -> None:
    with pytest.raises(InputError, match=r"--host must be a loopback address .* without a token, got .*ZTP_TOKEN"):
        check_host(host, None)
    check_host(host, Token(SECRET))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_loopback_needs_none(host: str) -> None:
    check_host(host, None)


@pytest.mark.parametrize("same", [True, False])
def test_only_a_comparison_in_constant_time_decides(monkeypatch: pytest.MonkeyPatch, same: bool) -> None:
    """Time cannot be measured well enough here: so whatever `hmac.compare_digest` says of the two is the answer."""
    token = Token(SECRET)
    seen: list[tuple[bytes, bytes]] = []

    def compare(ours: bytes, shown: bytes) -> bool:
        seen.append((ours, shown))
        return same

    monkeypatch.setattr(hmac, "compare_digest", compare)
    for shown in (SECRET, "x", ""):
        assert token.matches(shown) is same
        assert token.matches_cookie(shown) is same
    ours = (SECRET.encode(), token.cookie.encode())
    assert seen == [(each, shown.encode()) for shown in (SECRET, "x", "") for each in ours]
