"""A webhook's receiver on loopback, which keeps what it is sent."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Receiver:
    """answers: the statuses of the first requests; 200 after them. got: (path with query, Authorization, document)."""

    port: int
    answers: list[int] = field(default_factory=list)
    got: list[tuple[str, str | None, dict[str, Any]]] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    @property
    def documents(self) -> list[dict[str, Any]]:
        return [document for _, _, document in self.got]


@contextmanager
def receiving(answers: Sequence[int] = (), is_silent: bool = False) -> Iterator[Receiver]:
    """is_silent: it takes what it is sent and does not answer."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            assert self.headers["Content-Type"] == "application/json"
            status = receiver.answers.pop(0) if receiver.answers else 200
            receiver.got.append((self.path, self.headers["Authorization"], json.loads(body)))
            if is_silent:
                receiver.released.wait(120)
                return
            self.send_response(status)
            if 300 <= status < 400:
                self.send_header("Location", f"http://127.0.0.1:{receiver.port}/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        receiver = Receiver(server.server_address[1], list(answers))
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield receiver
        finally:
            receiver.released.set()
            server.shutdown()
            thread.join()
