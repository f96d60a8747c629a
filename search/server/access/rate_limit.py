"""How many wrong tokens were shown lately, by each address and by all together, and who has to wait for it.

Rules:
- who has to wait is answered without a look at the token, or waiting would not slow a guess down;
- such an answer counts for nothing, so the wait is over after the time that it names, whoever goes on trying;
- a wrong token that was the address's last one too tells a guesser nothing and counts for nothing: a program with an
  old token locks out nobody who shares its address, as all do behind a proxy;
- an address from which the right token came lately does not wait for what other addresses do;
- memory is constant: addresses share a table, by a hash that nobody outside can predict.
"""

from __future__ import annotations

import hashlib
import ipaddress
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock

PLACES = 4096
ROUNDING_S = 1e-6  # draining in many small steps is not exact
TRUST_S = 24 * 3600.0  # after the right token was shown


@dataclass(frozen=True)
class Limit:
    """So many wrong tokens at once, and then so many a second."""

    burst: int
    per_s: float


EACH = Limit(10, 1 / 6)  # of one address
OVERALL = Limit(200, 2.0)


class RateLimitedError(Exception):
    """No token is looked at now. wait_s: for so long, in whole seconds."""

    def __init__(self, wait_s: int) -> None:
        super().__init__(f"too many wrong tokens; try again in {wait_s} s")
        self.wait_s = wait_s


class _Bucket:
    """Fills by one with each wrong token and drains evenly; full, it says how long until one fits."""

    __slots__ = ("at", "digest", "level", "trusted_until")

    def __init__(self) -> None:
        self.level, self.at, self.digest, self.trusted_until = 0.0, 0.0, b"", -math.inf

    def wait_s(self, limit: Limit, now: float) -> float:
        self.level, self.at = max(0.0, self.level - (now - self.at) * limit.per_s), now
        wait_s = (self.level + 1 - limit.burst) / limit.per_s
        return wait_s if wait_s > ROUNDING_S else 0.0


class Tries:
    """Of one server, whatever its ports and threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._salt, self._lock = clock, os.urandom(16), Lock()
        self._each, self._all = [_Bucket() for _ in range(PLACES)], _Bucket()

    def examine(self, client: str, shown: str, matches: Callable[[str], bool]) -> bool:
        """Whether the token that `client` (an IP address) shows matches. Raises RateLimitedError instead of looking at
        it."""
        digest = self._digest(shown)
        with self._lock:
            now, own = self._clock(), self._each[self._place(client)]
            wait_s = own.wait_s(EACH, now)
            if now >= own.trusted_until:
                wait_s = max(wait_s, self._all.wait_s(OVERALL, now))
            if digest == own.digest:  # known to be wrong
                return False
            if wait_s > 0:
                raise RateLimitedError(math.ceil(wait_s))
            if matches(shown):
                own.trusted_until = now + TRUST_S
                return True
            own.digest = digest
            own.level += 1
            self._all.wait_s(OVERALL, now)
            self._all.level += 1
            return False

    def _digest(self, shown: str) -> bytes:
        return hashlib.blake2b(shown.encode("utf-8", "replace"), key=self._salt, digest_size=16).digest()

    def _place(self, client: str) -> int:
        return int.from_bytes(self._digest(_network(client))[:8]) % PLACES


def _network(client: str) -> str:
    """An IPv4 address, or the /64 of IPv6: of such a network, one subscriber has all addresses."""
    try:
        address = ipaddress.ip_address(client)
    except ValueError:
        return client
    if address.version == 6 and address.ipv4_mapped is None:
        return str(ipaddress.ip_network((int(address), 64), strict=False))
    return str(getattr(address, "ipv4_mapped", None) or address)
