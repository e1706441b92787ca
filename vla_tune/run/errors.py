"""A user's mistake is one line, not a traceback."""

import errno
import functools
import os
import re
import shlex
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from vla_tune.check.finding import CheckFailedError
from vla_tune.export import ParityError
from vla_tune.policy import NonFiniteActionsError
from vla_tune.run.stored import trusting
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
_OFFLINE = (
    "give folders on this machine (data=folder, model.folder=...), or set HF_HUB_OFFLINE=1 where everything was downloaded before."
)
_NULL_OPTION = "Config group override must be a string or a list"
_REMEDIES = {
    (errno.EACCES, errno.EPERM, errno.EROFS): "choose a folder that can be written: hydra.run.dir=... for a run, to=... for what "
    "is made of it; for caches HF_HOME=..., MPLCONFIGDIR=... and model.cache=..., where HOME cannot be written.",
    (errno.ENOSPC, errno.EDQUOT): "free some space, and start the same command again.",
    (errno.ENAMETOOLONG,): "choose a shorter name: hydra.run.dir=... for a run, to=... for what is made of it.",
}
"""What helps where a file cannot be written, by the system's number for why."""
_SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
_FREE = ("robot.state_of.",)
"""Mappings without a fixed set of names; of `logger`, `training` and an embodiment, who reads them names what is wrong."""


def one_line_errors[**P, T](main: Callable[P, T]) -> Callable[P, T]:
    """The same program; a mistake prints `error: ...` and exits with 2, an interruption with 130.

    It stands around `hydra.main`, for a misspelt key or option, and inside it, before Hydra adds a line of its own. What is no
    mistake of the user's keeps its traceback. Before it begins, scripts/ leaves the import path, on which Python puts a script's
    own folder first: a user's module may be called `record` or `bench`.
    """

    @functools.wraps(main)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        sys.path[:] = [entry for entry in sys.path if not entry or Path(entry).resolve() != _SCRIPTS]
        os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises what it would otherwise print over several lines
        try:
            _refuse_unread_words(*args)
            with trusting(_named_by_the_user(*args)):
                return main(*args, **kwargs)
        except TrainingInterrupted:
            sys.exit(130)
        except Exception as error:
            if not (isinstance(error, _MISTAKES) or _no_opengl(error) or _no_environment(error)):
                raise
            print(f"error: {' '.join([_line(error), *getattr(error, '__notes__', [])])}", file=sys.stderr)
            sys.exit(2)

    return wrapped


def _refuse_unread_words(*given: Any) -> None:
    """Inside a job: a new key that belongs to no object is one that nobody reads, most often a misspelt one.

    Args:
        given: The job's configuration. What lies below a `_target_` is looked at by what is built there.

    Raises:
        ValueError: there is one on the command line.
    """
    if not HydraConfig.initialized():
        return
    job = HydraConfig.get()
    added = [word.removeprefix("+").partition("=")[0] for word in job.overrides.task if re.match(r"\+(?!\+)", word)]
    plain = {key for cfg in given if isinstance(cfg, DictConfig) for key in _plain_keys(cfg)}
    if unread := [key for key in added if key.partition("@")[0] not in job.runtime.choices and ("." not in key or key in plain)]:
        raise ValueError(f"+{unread[0]}: nobody reads a key of that name (--cfg job shows the keys there are).")


def _named_by_the_user(*given: Any) -> Iterator[str]:
    """What `trusted=[...]` says, in the commands that open folders."""
    for cfg in given:
        if isinstance(cfg, DictConfig):
            yield from cfg.get("trusted") or []


def _plain_keys(cfg: DictConfig, above: str = "") -> Iterator[str]:
    """Dotted names of all that lies in no object's part of a configuration and in no mapping whose names are the user's."""
    if "_target_" in cfg or above in _FREE:
        return
    for key in map(str, cfg):
        yield f"{above}{key}"
        node = cfg._get_node(key)
        if isinstance(node, DictConfig) and not (node._is_none() or node._is_missing() or node._is_interpolation()):
            yield from _plain_keys(node, f"{above}{key}.")


def _line(error: Exception) -> str:
    """What a constructor raised, below what Hydra wrapped around it; for Hydra's own errors, what they say and a way out."""
    if isinstance(error, OSError) and error.errno is not None:
        return _of_the_system(error)
    if str(error).startswith(_NULL_OPTION):
        return "null is no option of a group that has one: ~env leaves env out (each group likewise); evaluation=none tries nothing"
    if _no_environment(error):
        return f"{_one_line(str(error))} (env.make.id is module:name; the folder of the module is named by PYTHONPATH)"
    if not isinstance(error, HydraException | OmegaConfBaseException):
        return _one_line(str(error))
    if isinstance(error, OverrideParseException):
        return _unread(error.override)
    if isinstance(error.__cause__, Exception) and not isinstance(error.__cause__, OmegaConfBaseException):
        return _line(error.__cause__)
    said = re.sub(r"Config search path:.*|To append to your config.*", "", str(error), flags=re.DOTALL)
    if isinstance(error, MissingConfigException) and (moved := _moved(error)):
        return moved
    if "Could not delete" in said:
        return f"{_one_line(said)} What lies in a list is not removed with ~: set it to null, or write the whole list."
    return f"{_one_line(said)} (--cfg job shows the keys there are, --help the options)"


def _moved(error: MissingConfigException) -> str | None:
    """What an old command means now: comparisons were options of `experiment=`."""
    group, _, name = (error.missing_cfg_file or "").partition("/")
    folders = re.findall(r"path=file://(.+)", str(error))  # where Hydra has looked
    if group == "experiment" and any((Path(folder) / "sweep" / f"{name}.yaml").is_file() for folder in folders):
        return f"experiment={name} compares runs: such are sweeps now, and experiment= names a recipe. Say sweep={name}."
    return None


def _of_the_system(error: OSError) -> str:
    """What the operating system said, perhaps to a library of others: of which file, and what helps."""
    said = _one_line(str(error)).removeprefix(f"[Errno {error.errno}] ")
    if isinstance(error, socket.gaierror):
        return f"no network ({said}): {_OFFLINE}"
    if error.filename is None:
        return said
    helps = next((remedy for numbers, remedy in _REMEDIES.items() if error.errno in numbers), None)
    return f"{error.filename}: {error.strerror}" + (f": {helps}" if helps else "")


def _unread(override: str) -> str:
    """A word of the command line that Hydra's grammar cannot read, and how it can."""
    key, equals, value = override.partition("=")
    if not equals:
        return f"{override!r} is no override: write key=value, +key=value for a new key, or ~key to remove one."
    again = shlex.quote(f"{key}={QuotedString(value, Quote.double).with_quotes()}")
    return f"{override!r} cannot be read: quote the value twice, for Hydra and for the shell: {again}"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _no_opengl(error: BaseException) -> bool:
    return isinstance(error, RuntimeError) and str(error).startswith("cannot draw")


def _no_environment(error: BaseException) -> bool:
    """Gymnasium finds no module or no name; what is wrong inside a user's module keeps its traceback."""
    unfound = isinstance(error, ModuleNotFoundError) and "Environment registration via importing a module failed" in str(error)
    return unfound or any((kind.__module__, kind.__name__) == ("gymnasium.error", "Error") for kind in type(error).__mro__)
