"""What runs in a process of an environment's own: it answers calls until the other side hangs up."""

import signal
import sys
import traceback
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from vla_tune.workers.hosted import Hosted
from vla_tune.workers.shelf import clear_here
from vla_tune.workers.wire import decode, encode
from vla_tune.workers.worker import PlainWorker

IDLE_S = 60.0
"""How long a process waits for the next environment once it has closed one."""

_MAKING = ("make", "build")
_ENDING = (*_MAKING, "close", "clear")
"""Close what was served; `clear` also what lies on a `Shelf`."""


def main() -> None:
    """Serves the connection whose number is the last argument."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal tells both; who started this one ends it
    with suppress(EOFError, ConnectionError):
        serve(Connection(int(sys.argv[-1])))


def serve(connection: Connection) -> None:
    """Calls the methods of what it was told to make, one answer for each call, until the other side hangs up or forgets it."""
    served: Any = None
    began = False
    try:
        while connection.poll(IDLE_S if served is None and began else None):
            method, arguments = decode(connection.recv_bytes())
            began = True
            try:
                if method in _ENDING and served is not None:
                    old, served = served, None
                    old.close()
                if method in _MAKING:
                    served, answer = _made(connection, method, arguments), None
                elif method in _ENDING:
                    answer = clear_here() if method == "clear" else None
                else:
                    answer = getattr(served, method)(**arguments)
                said = encode([None, answer])
            except Exception as error:
                kind = "ValueError" if isinstance(error, ValueError) else type(error).__name__
                said = encode([[kind, str(error), traceback.format_exc()], None])
            connection.send_bytes(said)
    finally:
        if served is not None:
            served.close()
        clear_here()


def _made(connection: Connection, method: str, arguments: Mapping[str, Any]) -> Any:
    """Of plain data; or by a function that our own program, which started this process, sends: nothing else is ever unpickled."""
    return Hosted(**arguments) if method == "build" else PlainWorker(connection.recv().fn, **arguments)
