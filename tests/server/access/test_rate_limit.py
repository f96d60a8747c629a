"""Who guesses has to wait; who has the token gets in."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

import pytest

from search.server.access import rate_limit
from search.server.access.rate_limit import EACH, OVERALL, TRUST_S, RateLimitedError, Tries

SECRET = "the-right-token-0123456789"


class Server:
    """Tries under a clock that the test moves."""

    def __init__(self) -> None:
        self.now, self.guesses = 1000.0, 0
        self.tries = Tries(lambda: self.now)
        self.looked_at: list[str] = []

    def shown(self, token: str, client: str = "10.0.0.1") -> bool:
        def matches(shown: str) -> bool:
            self.looked_at.append(shown)
            return shown == SECRET

        return self.tries.examine(client, token, matches)

    def guess(self, client: str = "10.0.0.1") -> None:
        """One that was never tried before."""
        self.guesses += 1
        assert not self.shown(f"guess {self.guesses}", client)

    def wait_of(self, client: str = "10.0.0.1", token: str | None = None) -> int:
        self.guesses += 1
        with pytest.raises(RateLimitedError) as refusal:
            self.shown(token or f"guess {self.guesses}", client)
        return refusal.value.wait_s


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def locked(server: Server) -> Server:
    """For 10.0.0.1."""
    for _ in range(EACH.burst):
        server.guess()
    return server


def test_wrong_tokens_are_looked_at_until_they_are_too_many(locked: Server) -> None:
    assert len(locked.looked_at) == EACH.burst
    assert locked.wait_of() == 1 / EACH.per_s
    assert locked.wait_of(token=SECRET) == 1 / EACH.per_s  # nor is the right one: a guess would be as good as before
    assert len(locked.looked_at) == EACH.burst


def test_the_wait_is_over_after_the_time_that_was_named_whoever_goes_on(locked: Server) -> None:
    wait_s = locked.wait_of()
    for _ in range(wait_s - 1):
        locked.now += 1
        for _ in range(100):
            assert locked.wait_of() <= wait_s
    locked.now += 1
    assert locked.shown(SECRET)


def test_guesses_are_as_slow_as_the_limit_says(server: Server) -> None:
    looked, hours = 0, 2
    for _ in range(hours * 3600):
        server.now += 1
        for _ in range(3):
            try:
                server.guess()
                looked += 1
            except RateLimitedError:
                pass
    assert looked <= EACH.burst + hours * 3600 * EACH.per_s + 1
    assert looked >= hours * 3600 * EACH.per_s - 1


def test_another_address_is_not_concerned(locked: Server) -> None:
    assert locked.shown(SECRET, "10.0.0.2")


def test_the_same_wrong_token_again_locks_nobody_out(server: Server) -> None:
    """As a program with an old token sends it every second from the address of a proxy."""
    for _ in range(1000):
        assert not server.shown("the-token-of-last-year")
    assert server.looked_at == ["the-token-of-last-year"]
    assert server.shown(SECRET)
    assert not server.shown("the-token-of-last-year")


def strangers_to(server: Server, *clients: str) -> Iterator[str]:
    """Addresses whose places of the table are not those of `clients`, and each place less often than EACH allows.

    Where an address shares one by the table's salt, it is trusted with it or waits for it.
    """
    taken = {server.tries._place(client): EACH.burst for client in clients}
    for number in range(2**24):
        client = f"10.{number // 65536}.{number // 256 % 256}.{number % 256}"
        place = server.tries._place(client)
        taken[place] = taken.get(place, 0) + 1
        if taken[place] < EACH.burst:
            yield client


def test_many_addresses_together_are_slowed_down_and_those_that_are_known_are_not(server: Server) -> None:
    known, stranger = "192.168.0.1", "192.168.0.2"
    guessers = strangers_to(server, known, stranger)
    assert server.shown(SECRET, known)
    looked, waits = 0, set[int]()
    for _ in range(10 * OVERALL.burst):
        try:
            server.guess(next(guessers))
            looked += 1
        except RateLimitedError as refusal:
            waits.add(refusal.wait_s)
    assert (looked, waits) == (OVERALL.burst, {1})
    assert server.shown(SECRET, known)
    assert server.wait_of(stranger, SECRET) == 1
    server.now += 1
    assert server.shown(SECRET, stranger)
    server.now += TRUST_S
    for _ in range(OVERALL.burst):
        server.guess(next(guessers))
    assert server.wait_of(known, SECRET) == 1


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:1", True),  # one subscriber's network
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:10.0.0.1", "10.0.0.1", True),
        ("10.0.0.1", "10.0.0.2", False),
        ("", "", True),  # a socket that has no address
    ],
)
def test_which_addresses_are_one(server: Server, one: str, other: str, same: bool) -> None:
    for _ in range(EACH.burst):
        server.guess(one)
    if same:
        server.wait_of(other)
    else:
        server.guess(other)


def test_memory_is_constant_and_unpredictable(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def size() -> int:
        return sum(sys.getsizeof(getattr(bucket, name)) for bucket in server.tries._each for name in bucket.__slots__)

    full = len(server.tries._each)
    for number in range(5000):
        server.now += 10
        server.guess(f"10.0.{number // 256}.{number % 256}")
    assert len(server.tries._each) == full == rate_limit.PLACES
    assert size() < 200 * rate_limit.PLACES + 16 * rate_limit.PLACES * 4
    places: Callable[[Tries], list[int]] = lambda made: [made._place(f"10.0.0.{number}") for number in range(50)]  # noqa: E731
    assert places(Tries()) != places(Tries())
