"""A user's mistake is one line, not a traceback."""

import functools
import sys
from collections.abc import Callable

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from vla_tune.export import ParityError
from vla_tune.training.interruption import TrainingInterrupted
from vla_tune.training.update import NonFiniteLossError

_MISTAKES = (ValueError, OSError, NonFiniteLossError, ParityError, OmegaConfBaseException)


def one_line_errors[**P, T](main: Callable[P, T]) -> Callable[P, T]:
    """The same program; a mistake prints `error: ...` and exits with 2, an interruption with 130.

    What is no mistake of the user's keeps its traceback.
    """

    @functools.wraps(main)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return main(*args, **kwargs)
        except TrainingInterrupted:
            sys.exit(130)
        except Exception as error:
            cause = _cause(error)
            if not isinstance(cause, _MISTAKES) and not _no_opengl(cause):
                raise
            print(f"error: {' '.join(str(cause).split())}", file=sys.stderr)
            sys.exit(2)

    return wrapped


def _cause(error: BaseException) -> BaseException:
    """What a constructor raised, below what Hydra wrapped around it."""
    while isinstance(error, HydraException) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _no_opengl(error: BaseException) -> bool:
    return isinstance(error, RuntimeError) and str(error).startswith("cannot draw")
