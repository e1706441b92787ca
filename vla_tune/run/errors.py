"""A user's mistake is one line, not a traceback."""

import functools
import os
import re
import sys
from collections.abc import Callable

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from vla_tune.check.finding import CheckFailedError
from vla_tune.export import ParityError
from vla_tune.policy import NonFiniteActionsError
from vla_tune.training.interruption import TrainingInterrupted
from vla_tune.training.non_finite import NonFiniteLossError

_MISTAKES = (
    ValueError,
    OSError,
    NonFiniteActionsError,
    NonFiniteLossError,
    ParityError,
    CheckFailedError,
    HydraException,
    OmegaConfBaseException,
)


def one_line_errors[**P, T](main: Callable[P, T]) -> Callable[P, T]:
    """The same program; a mistake prints `error: ...` and exits with 2, an interruption with 130.

    It stands around `hydra.main`, for a misspelt key or option, and inside it, before Hydra adds a line of its own. What is no
    mistake of the user's keeps its traceback.
    """

    @functools.wraps(main)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises what it would otherwise print over several lines
        try:
            return main(*args, **kwargs)
        except TrainingInterrupted:
            sys.exit(130)
        except Exception as error:
            if not (isinstance(error, _MISTAKES) or _no_opengl(error)):
                raise
            print(f"error: {_line(error)}", file=sys.stderr)
            sys.exit(2)

    return wrapped


def _line(error: Exception) -> str:
    """What a constructor raised, below what Hydra wrapped around it; for Hydra's own errors, what they say and a way out."""
    if not isinstance(error, HydraException | OmegaConfBaseException):
        return _one_line(str(error))
    if isinstance(error.__cause__, Exception) and not isinstance(error.__cause__, OmegaConfBaseException):
        return _line(error.__cause__)
    said = re.sub(r"Config search path:.*|To append to your config.*", "", str(error), flags=re.DOTALL)
    return f"{_one_line(said)} (--cfg job shows the keys there are, --help the options)"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _no_opengl(error: BaseException) -> bool:
    return isinstance(error, RuntimeError) and str(error).startswith("cannot draw")
