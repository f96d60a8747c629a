"""What a worker's environment says: how often it beats, and how long it waits for a database that is gone."""

from __future__ import annotations

from dataclasses import dataclass

from search.config.environment import read_seconds

HEARTBEAT = "ZTP_HEARTBEAT"
PATIENCE = "ZTP_DATABASE_PATIENCE"


@dataclass(frozen=True)
class Settings:
    """heartbeat_s: a worker that dies is replaced within two of these. patience_s: a database may be gone so long.

    Of two heartbeats, one and a quarter are the lease, and an eighth passes until somebody looks: the rest is for busy
    machines. A worker beats four times in each, so that some beats may be lost. The lease is kept with the slot:
    workers may have different heartbeats.
    """

    heartbeat_s: float = 10.0
    patience_s: float = 300.0

    @property
    def beat_s(self) -> float:
        """Between two beats."""
        return self.heartbeat_s / 4

    @property
    def lease_s(self) -> float:
        """Silence after which a worker is taken for dead."""
        return 1.25 * self.heartbeat_s

    @property
    def look_s(self) -> float:
        """Between two looks, of all workers of a study together, at who has died."""
        return self.heartbeat_s / 8


def read_settings() -> Settings:
    """From the environment. Raises InputError."""
    default = Settings()
    return Settings(
        heartbeat_s=read_seconds(HEARTBEAT, default.heartbeat_s, least=0.1),
        patience_s=read_seconds(PATIENCE, default.patience_s),
    )
