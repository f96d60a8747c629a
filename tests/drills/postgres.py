"""A real PostgreSQL from a wheel that can be stopped and started while others use it."""

from __future__ import annotations

import subprocess
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import sqlalchemy as sa

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it complains about a missing XDG_RUNTIME_DIR
    import pgserver

CONNECTIONS = 400  # a worker holds up to five: 64 of them need more than the default hundred


class PostgreSQL:
    """In a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self._server = pgserver.get_server(folder, cleanup_mode="delete")
        self._folder, self._count = folder, 0
        self._execute(f"ALTER SYSTEM SET max_connections = {CONNECTIONS}", "ALTER SYSTEM SET fsync = off")
        self.restart()

    def _execute(self, *statements: str) -> None:
        uri = sa.make_url(self._server.get_uri()).set(drivername="postgresql+psycopg")
        engine = sa.create_engine(uri, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)
        engine.dispose()

    def new_database(self) -> str:
        """URL of a new, empty database, as users write it."""
        self._count += 1
        self._execute(f"CREATE DATABASE drill{self._count}")
        uri = sa.make_url(self._server.get_uri())
        return uri.set(drivername="postgresql", database=f"drill{self._count}").render_as_string(False)

    def control(self, *arguments: str) -> None:
        program = Path(pgserver.__file__).parent / "pginstall" / "bin" / "pg_ctl"
        command = [str(program), "-D", str(self._folder), "-w", *arguments]
        subprocess.run(
            command, check=True, user=self._server.system_user, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def restart(self, mode: str = "fast") -> None:
        """mode: "fast" ends sessions and says so, "immediate" is a crash with recovery."""
        self.control("restart", "-m", mode, "-l", str(self._folder / "log"))

    def start(self) -> None:
        sockets = sa.make_url(self._server.get_uri()).query["host"]  # a restart remembers its options, a start does not
        self.control("start", "-l", str(self._folder / "log"), "-o", f'-h "" -k {sockets}')

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Its processes stand still: connections stay open, and nobody answers on them."""
        postmaster = psutil.Process(int((self._folder / "postmaster.pid").read_text().split()[0]))
        stopped: list[psutil.Process] = []
        try:
            postmaster.suspend()  # first: it would start others
            stopped.append(postmaster)
            for process in postmaster.children():
                with suppress(psutil.NoSuchProcess):
                    process.suspend()
                    stopped.append(process)
            yield
        finally:
            for process in stopped:
                with suppress(psutil.NoSuchProcess):
                    process.resume()

    def close(self) -> None:
        self._server.cleanup()
