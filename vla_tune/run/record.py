"""Recording of datasets, and how large they became."""

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from omegaconf import DictConfig, OmegaConf
from rich.table import Table

from vla_tune.printing import say, show
from vla_tune.record.source import TABLETOP
from vla_tune.record.tasks import kept_in
from vla_tune.run.objects import build
from vla_tune.schema import Embodiment, embodiment_from_record, write_json


@runtime_checkable
class Recording(Protocol):
    """What `conf/recording` describes."""

    @property
    def folder(self) -> str:
        """Where the dataset will be."""
        ...

    def record(self, embodiment: Embodiment) -> Path:
        """The dataset's folder, recorded now unless the same recipe recorded it before."""
        ...


@dataclass(frozen=True)
class RecordingResult:
    """What lies in a dataset's folder; plain JSON data (`dataclasses.asdict`)."""

    folder: str
    episodes: int
    frames: int
    robot_seconds: float
    """Duration of the demonstrations."""
    seconds: float
    """What recording took."""
    size_bytes: int
    reused: bool
    """It was there before, made by the same recipe."""
    attempts: str | None = None
    """Kept of tried attempts by task, where the folder says it."""


def record(cfg: DictConfig) -> RecordingResult:
    """What `scripts/record.py` does: record `cfg.recording`, print what became of it, and write that to `cfg.json`.

    Raises:
        ValueError: the recording asks for what there is not, or its folder holds something else.
        OSError: the disk is full.
    """
    _check_environment(cfg)
    body = embodiment_from_record(OmegaConf.to_container(cfg.embodiment, resolve=True))  # pyright: ignore[reportArgumentType]
    recording: Recording = build(cfg.recording)
    reused, start = Path(recording.folder).exists(), time.perf_counter()
    folder = recording.record(body)
    result = describe(folder, seconds=time.perf_counter() - start, reused=reused)
    show(_table(result))
    if result.attempts is not None:
        say(f"Attempts kept, by task: {result.attempts}.")
    if cfg.json:
        write_json(Path(cfg.json), asdict(result))
    return result


def _check_environment(cfg: DictConfig) -> None:
    if "make" not in cfg.recording:
        if cfg.env.make.get("id") != TABLETOP:
            raise ValueError(f"env={cfg.env.suite}: this recording is the built-in tabletop's, env=tabletop; say recording=expert.")
    elif "expert" not in cfg.env:
        raise ValueError(f"env={cfg.env.suite} names no expert that could show its tasks: add `expert:` beside its `make:`.")


def describe(folder: Path, *, seconds: float, reused: bool) -> RecordingResult:
    """The dataset in `folder`, recorded in `seconds`."""
    info: dict[str, Any] = json.loads((folder / "meta" / "info.json").read_text())
    return RecordingResult(
        folder=str(folder),
        episodes=info["total_episodes"],
        frames=info["total_frames"],
        robot_seconds=info["total_frames"] / info["fps"],
        seconds=seconds,
        size_bytes=sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
        reused=reused,
        attempts=kept_in(folder),
    )


def _table(result: RecordingResult) -> Table:
    table = Table(title=f"{'Reused' if result.reused else 'Recorded'} {result.folder}")
    cells = {
        "episodes": f"{result.episodes:,}",
        "frames": f"{result.frames:,}",
        "robot time": f"{result.robot_seconds:,.1f} s",
        "recorded in": f"{result.seconds:,.1f} s",
        "size": f"{result.size_bytes / 1e6:,.2f} MB",
    }
    for name in cells:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_row(*cells.values())
    return table
