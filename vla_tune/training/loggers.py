"""Where the numbers of a run go: the terminal, a JSON-lines file, wandb."""

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Logger(Protocol):
    """Takes the numbers of one step after the other."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """The metrics of `step`, counted from 1; the first call tells where a resumed run continues."""
        ...

    def close(self) -> None:
        """Flush and let go."""
        ...


class ConsoleLogger:
    """A progress bar with the time left, and a line per validation; plain lines where there is no terminal.

    A terminal that is closed meanwhile costs these lines and not the run.

    Args:
        steps: of the run.
        console: rich's; the terminal's errors where none is given.
    """

    def __init__(self, *, steps: int, console: Any = None) -> None:
        # not needed by the other loggers, nor where a step is only measured
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        self._steps = steps
        self._console = console or Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=self._console, disable=not self._console.is_terminal)
        self._task = self._progress.add_task("training", total=steps)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Move the bar; print what was validated."""
        with suppress(OSError):
            self._show(step, metrics)

    def close(self) -> None:
        """Leave the bar as it stands."""
        with suppress(OSError):
            self._progress.stop()

    def _show(self, step: int, metrics: Mapping[str, float]) -> None:
        self._progress.start()
        description = f"loss {metrics['train/loss']:.4f}" if "train/loss" in metrics else "left out"
        self._progress.update(self._task, completed=step, description=description)
        validated = {name.removeprefix("validation/"): value for name, value in metrics.items() if name.startswith("validation/")}
        due = not self._console.is_terminal and step % max(1, self._steps // 20) == 0
        if validated or due:
            numbers = " ".join(f"{name} {value:.4g}" for name, value in validated.items() if name[-1] not in "0123456789")
            held_out = f"  held out: {numbers}" if numbers else ""
            self._console.print(f"step {step}/{self._steps}  {description}{held_out}", highlight=False, soft_wrap=True)


class JsonlLogger:
    """One JSON object per step in a file; what a killed run had written beyond its checkpoint is cut away on resuming."""

    def __init__(self, path: Path | str) -> None:
        self._path = Path(path)
        self._continued = False

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append a line in one write."""
        if not self._continued:
            self._continue_at(step)
        line = json.dumps({"step": step, **metrics}) + "\n"
        with self._path.open("ab", buffering=0) as file:
            file.write(line.encode())

    def close(self) -> None:
        """Nothing is held open."""

    def _continue_at(self, step: int) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        lines = self._path.read_text().splitlines(keepends=True) if self._path.exists() else []
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] < step]
        partial = self._path.with_suffix(".partial")
        partial.write_text("".join(kept))
        os.replace(partial, self._path)
        self._continued = True


class WandbLogger:
    """Weights & Biases; `mode="offline"` needs no network (`wandb sync` uploads later).

    Raises:
        ValueError: wandb refuses, for want of a login or of a network.
    """

    def __init__(self, *, project: str, name: str, folder: Path | str, mode: str = "offline") -> None:
        import wandb  # takes a second and is not needed by the other loggers

        Path(folder).mkdir(parents=True, exist_ok=True)
        identity = hashlib.sha256(str(Path(folder).resolve()).encode()).hexdigest()[:16]  # a run is its folder, resumed or not
        options: dict[str, Any] = {"project": project, "name": name, "dir": str(folder), "mode": mode}
        try:
            self._run: Any = wandb.init(**options, resume="allow", id=identity)
        except wandb.Error as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"wandb: {reason} (`wandb login`, or logger.wandb.mode=offline, which needs neither)") from None

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Send the metrics of `step`."""
        self._run.log(dict(metrics), step=step)

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


def read_metrics(path: Path | str) -> list[dict[str, float | int]]:
    """The lines that `JsonlLogger` wrote."""
    return [json.loads(line) for line in Path(path).read_text().splitlines()]
