"""What a robot sees and does, while it does it, in rerun's viewer."""

import logging
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vla_tune.control.log import Tick
from vla_tune.control.robot import Seen
from vla_tune.schema import Embodiment

if TYPE_CHECKING:
    import rerun

_log = logging.getLogger(__name__)
_WAITING = 50
"""Ticks that wait to be shown; further ones are not."""
_PATIENCE = 10.0
"""Seconds for the viewer, when it is over."""
APPLICATION = "vla-tune"

type Open = Callable[[], "rerun.RecordingStream"]
"""Begins a recording, somewhere."""


@dataclass(frozen=True)
class InViewer:
    """In a window on this machine."""

    def __call__(self) -> "rerun.RecordingStream":
        """Opens it."""
        recording = _recording()
        recording.spawn()
        return recording


@dataclass(frozen=True)
class AtAddress:
    """In a viewer that runs already, on this machine or another."""

    url: str
    """As the viewer prints it: rerun+http://host:port/proxy."""

    def __call__(self) -> "rerun.RecordingStream":
        """Connects; a viewer that is not there yet is waited for in the background."""
        recording = _recording()
        recording.connect_grpc(self.url)
        return recording


@dataclass(frozen=True)
class InFile:
    """In a file, which rerun's viewer opens later."""

    path: str

    def __call__(self) -> "rerun.RecordingStream":
        """Begins the file."""
        recording = _recording()
        Path(self.path).parent.mkdir(parents=True, exist_ok=True)
        recording.save(self.path)
        return recording


@dataclass(eq=False)
class Live:
    """Shows every tick (a `TickLog`), from a thread of its own, so that no tick waits for a viewer.

    Under `observation/` the cameras' pictures, under `action/<group>/` what the policy asked for (raw), what was asked of the
    safety (asked) and commanded (command), under `controller/` state, notes, episode and the clamped share.

    Args:
        open: Begins the recording.
        embodiment: Names of cameras and dimensions.

    Raises:
        ValueError: rerun is not installed.
    """

    open: Open
    embodiment: Embodiment

    def __post_init__(self) -> None:
        self._recording = self.open()
        self._episode = self._shown = self._dropped = 0
        self._failed = False
        self._closing = threading.Event()
        self._ticks: queue.Queue[tuple[int, Tick, Seen]] = queue.Queue(_WAITING)
        self._thread = threading.Thread(target=self._show, name="live", daemon=True)
        self._thread.start()

    def add(self, tick: Tick, seen: Seen) -> None:
        """Hands it over; where the viewer is slower than the robot, some are not shown."""
        if self._failed:
            return
        try:
            self._ticks.put_nowait((self._episode, tick, seen))
        except queue.Full:
            self._dropped += 1

    def end_episode(self) -> None:
        """The next one has a number of its own."""
        self._episode += 1

    def close(self) -> None:
        """Waits a while for what is still to be shown, and not for a viewer that hangs."""
        self._closing.set()
        self._thread.join(timeout=_PATIENCE)
        if self._thread.is_alive():
            _log.warning("the viewer did not take what was still to be shown within %g s.", _PATIENCE)
        if self._dropped:
            _log.warning("%d ticks were not shown: the viewer was too slow. ticks.jsonl has them.", self._dropped)

    def _show(self) -> None:
        try:
            while not (self._closing.is_set() and self._ticks.empty()):
                with suppress(queue.Empty):
                    self._log_tick(*self._ticks.get(timeout=0.05))
            self._recording.flush()
            self._recording.disconnect()
        except Exception:  # a viewer is no reason to stop a robot
            self._failed = True
            _log.exception("the live view failed; the robot goes on without it")

    def _log_tick(self, episode: int, tick: Tick, seen: Seen) -> None:
        import rerun

        self._recording.set_time("time", duration=tick.time)
        self._recording.set_time("tick", sequence=self._shown)
        self._shown += 1
        for role, image in seen.observation.images.items():
            self._recording.log(f"observation/{role}", rerun.Image(image))
        begin = 0
        for group in self.embodiment.action:
            part = slice(begin, begin := begin + group.dimension)
            for name, values in (("raw", tick.raw), ("asked", tick.asked), ("command", tick.command)):
                if np.isfinite(values[part]).all():
                    self._recording.log(f"action/{group.name}/{name}", rerun.Scalars(values[part]))
        self._recording.log("controller/clamped", rerun.Scalars(float(tick.clamped.mean())))
        self._recording.log("controller/episode", rerun.Scalars(float(episode)))
        if tick.note:
            self._recording.log("controller/state", rerun.TextLog(f"{tick.state}: {tick.note}"))


def _recording() -> "rerun.RecordingStream":
    try:
        import rerun
    except ImportError:
        raise ValueError("live=... needs rerun, which is not installed: `uv sync --extra live`, or leave live away.") from None
    return rerun.RecordingStream(APPLICATION)
