"""What runs in a process of an environment's own: it answers calls until the other side hangs up."""

import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from vla_tune.workers.wire import decode, encode
from vla_tune.workers.worker import PlainWorker


def main() -> None:
    """Serves what the first message makes, over the connection whose number is the last argument."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal tells both; who started this one ends it
    connection = Connection(int(sys.argv[-1]))
    with suppress(EOFError, ConnectionError):
        make_env = connection.recv()  # what made this process is its own program: the only thing that is ever unpickled
        serve(connection, lambda arguments: PlainWorker(make_env.fn, **arguments))


def serve(connection: Connection, make: Callable[[dict[str, Any]], Any]) -> None:
    """Calls methods of what `make` makes of the first call's arguments, one answer for each call, until the other side hangs up."""
    served: Any = None
    try:
        while True:
            method, arguments = decode(connection.recv_bytes())
            try:
                if served is None:
                    served, answer = make(arguments), None
                else:
                    answer = getattr(served, method)(**arguments)
                said = encode([None, answer])
            except Exception as error:
                kind = ValueError if isinstance(error, ValueError) else type(error)
                said = encode([[kind.__name__, str(error), traceback.format_exc()], None])
            connection.send_bytes(said)
    finally:
        if served is not None:
            served.close()
