"""An export that is cut short, at whichever of its writes, leaves nothing that is read, and the next one ends well."""

import errno
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from vla_tune.models.files import content_hash
from vla_tune.run import export as module
from vla_tune.run import gates
from vla_tune.run.export import export_run

LOOSE = ["dtype=fp32", "tolerance.token_agreement=0.5", "tolerance.mean_error=1.0", "tolerance.loss_noise=1.0"]
MOMENTS = 3
"""At which the disk is full, evenly spaced over the writes; the first and the last are among them."""


@pytest.fixture
def run(run_of, frames, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished one whose recorded frames are those of the test."""
    for place in (module, gates):
        monkeypatch.setattr(place, "data_of", lambda run: None)
        monkeypatch.setattr(place, "recorded_frames", lambda data, *, count: frames[:count])
    return run_of("one", adapter="lora_r2", seed=1)


@pytest.fixture
def export(run: Path, configuration) -> Callable[[Path], None]:
    def to(folder: Path) -> None:
        export_run(configuration("export", f"run={run}", f"to={folder}", "frames=2", "observations=3", *LOOSE))

    return to


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.ci
def test_whenever_it_is_cut_short(export, run: Path, disk, tmp_path: Path):
    """Killed: what lay there at a write is taken to another disk. Full or read-only: a write is refused."""
    robots, killed = tmp_path / "robots", tmp_path / "killed"
    robots.mkdir()
    seen: list[list[str]] = []

    def looked_at() -> None:
        seen.append(names(robots))
        if len(seen) == 5:
            shutil.copytree(robots, killed)

    disk.before = looked_at
    with disk.watching(robots):
        export(robots / "arm")
    disk.before, last = lambda: None, len(disk.changes) - 1
    assert names(robots) == ["arm"]
    assert disk.changes[-1] == "arm"
    assert not [found for found in seen if "arm" in found], "it appears by the last write, and not before"

    with subprocess.Popen(["true"]) as dead:
        dead.wait(60)
    (left,) = killed.iterdir()
    left.rename(killed / f".arm.{dead.pid}.partial")
    with disk.watching(run) as changed:
        export(killed / "arm")
    assert changed.changes == [], "a run may lie on a disk that is read only"
    assert names(killed) == ["arm"]
    assert content_hash(killed / "arm" / "hf") == content_hash(robots / "arm" / "hf")

    before = names(robots)
    for moment in range(MOMENTS):
        refused = moment * last // (MOMENTS - 1)
        with disk.watching(robots, refuses=refused, number=errno.ENOSPC), pytest.raises(OSError, match="No space left"):
            export(robots / "other")
        assert names(robots) == before, f"write {refused}"
    with (
        disk.watching(robots, refuses=0, number=errno.EROFS),
        pytest.raises(OSError, match=r"cannot be written \(Read-only.*: choose"),
    ):
        export(robots / "other")
