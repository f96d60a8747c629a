"""SIGTERM and SIGINT: the trial is handed back, and the process is gone within ten seconds.

Python runs a handler only between two of its own instructions; a call into a library that takes longer is not waited
for.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)
GRACE_S = 7.0  # of the ten seconds: what is left is for the database
HAND_BACK_S = 2.5  # a database that hangs may keep the trial: its lease will be over


class ShutdownRequested(KeyboardInterrupt):
    """The process was asked to end. code: what it exits with, 128 + the signal's number."""

    def __init__(self, number: int) -> None:
        super().__init__(f"signal {number}")
        self.code = 128 + number


@contextmanager
def graceful_shutdown(hand_back: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Within, SIGTERM and SIGINT raise Leave, once; GRACE_S after, `hand_back` is called and the process ended.

    `hand_back` has HAND_BACK_S: then the process ends without it.

    Only in the main thread, which is the only one that receives signals; elsewhere nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    ended = threading.Event()

    def watch() -> None:
        number = reader.recv(1)
        while number and number[0] not in SIGNALS:  # every signal with a handler is written here
            number = reader.recv(1)
        if number and not ended.wait(GRACE_S):
            last = threading.Thread(target=hand_back, name="last call", daemon=True)
            last.start()
            last.join(HAND_BACK_S)
            os._exit(128 + number[0])

    def leave(number: int, frame: FrameType | None) -> None:
        for signal_number in SIGNALS:
            signal.signal(signal_number, signal.SIG_IGN)  # one is enough: a second would break off the handing back
        raise ShutdownRequested(number)

    wakeup = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    before = {signal_number: signal.signal(signal_number, leave) for signal_number in SIGNALS}
    watcher = threading.Thread(target=watch, name="leaving", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        signal.set_wakeup_fd(wakeup)
        for signal_number, handler in before.items():
            signal.signal(signal_number, handler)
        writer.close()
        watcher.join(GRACE_S)
        reader.close()
