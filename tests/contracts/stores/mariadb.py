"""A real MariaDB of the system's packages, in a folder of its own, for the tests of `mysql://` URLs."""

from __future__ import annotations

import getpass
import shutil
import subprocess
import time
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

READY_S = 120.0


def missing() -> str | None:
    """Why there is no MariaDB here."""
    absent = [name for name in ("mariadbd", "mariadb-install-db") if shutil.which(name) is None]
    return f"{' and '.join(absent)} not found: apt-get install mariadb-server" if absent else None


class MariaDB:
    """Listens on a socket alone."""

    def __init__(self, folder: Path) -> None:
        data, self._socket, user = folder / "data", folder / "socket", getpass.getuser()
        options = [f"--datadir={data}", f"--user={user}"]
        install = ["mariadb-install-db", "--no-defaults", "--auth-root-authentication-method=normal", *options]
        subprocess.run(install, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        # what makes commits fast on a disk that need not survive a power cut
        fast = ["--innodb-flush-log-at-trx-commit=0", "--innodb-flush-method=nosync", "--skip-log-bin"]
        serve = ["mariadbd", "--no-defaults", "--skip-networking", f"--socket={self._socket}", *options, *fast]
        self._process = subprocess.Popen(serve, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._engine = sa.create_engine(self._url("mysql"), isolation_level="AUTOCOMMIT")
        self._count = 0
        self._wait()

    def _url(self, database: str) -> str:
        return f"mysql+pymysql://root@/{database}?unix_socket={self._socket}"

    def _wait(self) -> None:
        until = time.monotonic() + READY_S
        while True:
            try:
                with self._engine.connect():
                    return
            except OperationalError:
                assert time.monotonic() < until
                assert self._process.poll() is None
                time.sleep(0.2)

    def new_database(self) -> str:
        """URL of a new, empty database."""
        self._count += 1
        with self._engine.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE ztp{self._count}")
        return self._url(f"ztp{self._count}")

    def close(self) -> None:
        self._engine.dispose()
        self._process.terminate()
        self._process.wait()
