"""The live view gets every tick, waits for nobody, and its failure is not the robot's."""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from vla_tune.control import live as module
from vla_tune.control.live import InFile, Live
from vla_tune.control.log import Tick
from vla_tune.control.robot import Seen
from vla_tune.schema import Observation


def tick(number: int, note: str = "") -> tuple[Tick, Seen]:
    values = np.array([0.1, 0.2, 1.0]) * number
    seen = Seen(Observation({"front": np.full((4, 4, 3), number, np.uint8)}, np.zeros(3, np.float32), "go"), float(number))
    return Tick(number, number / 50, "RUN", 0.0, values, values, values, values, np.array([True, False, False]), note), seen


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """The viewer's first import takes a busy machine longer than a robot is kept."""
    monkeypatch.setattr(module, "_PATIENCE", 60.0)


def test_every_tick_is_in_the_recording(body, tmp_path):
    rerun = pytest.importorskip("rerun")
    live = Live(InFile(str(tmp_path / "folder" / "live.rrd")), body)
    for number in range(20):
        live.add(*tick(number, "there are actions" if number == 3 else ""))
    live.close()
    read = rerun.experimental.RrdReader(tmp_path / "folder" / "live.rrd")
    rows: dict[str, int] = {}
    for chunk in read.stream():
        rows[str(chunk.entity_path)] = rows.get(str(chunk.entity_path), 0) + chunk.to_record_batch().num_rows
    assert rows["/observation/front"] == 20
    assert {rows[f"/action/{group}/{name}"] for group in ("joints", "gripper") for name in ("raw", "asked", "command")} == {20}
    assert rows["/controller/clamped"] == 20
    assert rows["/controller/state"] == 1


class Slow:
    """A viewer that takes its time, or fails, or hangs."""

    def __init__(
        self, error: Exception | None = None, *, at_end: Exception | None = None, hangs: threading.Event | None = None
    ) -> None:
        self.error, self.at_end, self.hangs = error, at_end, hangs
        self.logged, self.closed = 0, False

    def set_time(self, name: str, **value: float) -> None: ...

    def log(self, path: str, what: object) -> None:
        if self.hangs is not None:
            self.hangs.wait(60)
        if self.error is not None:
            raise self.error
        self.logged += 1

    def flush(self) -> None:
        if self.at_end is not None:
            raise self.at_end

    def disconnect(self) -> None:
        self.closed = True


def test_a_slow_viewer_holds_up_no_tick(body, caplog):
    pytest.importorskip("rerun")
    shown = threading.Event()
    viewer = Slow(hangs=shown)
    live = Live(lambda: viewer, body)

    def ticking() -> None:
        for number in range(200):
            live.add(*tick(number))

    with ThreadPoolExecutor(1) as robot:
        robot.submit(ticking).result(timeout=60)
    shown.set()
    live.close()
    assert viewer.closed
    assert "ticks were not shown: the viewer was too slow" in caplog.text


@pytest.mark.parametrize("viewer", [Slow(RuntimeError("the window was closed")), Slow(at_end=RuntimeError("the disk is full"))])
def test_a_viewer_that_fails_is_told_and_left_behind(body, caplog, viewer):
    pytest.importorskip("rerun")
    live = Live(lambda: viewer, body)
    for number in range(5):
        live.add(*tick(number))
    live.close()
    assert "the robot goes on without it" in caplog.text
    assert "did not take what was still to be shown" not in caplog.text
    assert "too slow" not in caplog.text


def test_a_viewer_that_hangs_keeps_nobody(body, caplog, monkeypatch):
    pytest.importorskip("rerun")
    monkeypatch.setattr(module, "_PATIENCE", 0.05)
    hangs = threading.Event()
    live = Live(lambda: Slow(hangs=hangs), body)
    for number in range(100):
        live.add(*tick(number))
    live.close()
    hangs.set()
    assert "did not take what was still to be shown within 0.05 s" in caplog.text


def test_without_rerun_the_remedy_is_named(body, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "rerun", None)
    with pytest.raises(ValueError, match=r"uv sync --extra live"):
        Live(InFile(str(tmp_path / "live.rrd")), body)
