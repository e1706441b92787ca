import io
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from vla_tune.training.loggers import ConsoleLogger, JsonlLogger, Logger, WandbLogger, read_metrics

LINE = {"train/loss": 1.25}


def test_lines_return_exactly(tmp_path: Path) -> None:
    logger = JsonlLogger(tmp_path / "new" / "metrics.jsonl")
    logger.log(1, {"train/loss": 0.1 + 0.2})
    logger.log(2, LINE)
    logger.close()
    assert read_metrics(tmp_path / "new" / "metrics.jsonl") == [
        {"step": 1, "train/loss": 0.1 + 0.2},
        {"step": 2, "train/loss": 1.25},
    ]


@pytest.mark.parametrize("torn", ["", '{"step": 4, "tra'])
def test_resuming_cuts_what_came_after_the_checkpoint(tmp_path: Path, torn: str) -> None:
    path = tmp_path / "metrics.jsonl"
    killed = JsonlLogger(path)
    for step in (1, 2, 3):
        killed.log(step, LINE)
    path.write_text(path.read_text() + torn)
    resumed = JsonlLogger(path)
    resumed.log(3, {"train/loss": 9.0})
    resumed.log(4, LINE)
    assert [(line["step"], line["train/loss"]) for line in read_metrics(path)] == [(1, 1.25), (2, 1.25), (3, 9.0), (4, 1.25)]
    assert [entry.name for entry in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_finished_run_keeps_its_log(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    JsonlLogger(path).log(1, LINE)
    JsonlLogger(path).close()
    assert len(read_metrics(path)) == 1


def test_console_without_a_terminal_prints_lines() -> None:
    out = io.StringIO()
    logger = ConsoleLogger(steps=40, console=Console(file=out, width=200))
    for step in range(1, 41):
        extra = {"validation/loss": 0.5, "validation/action_error_0": 3.0} if step == 39 else {}
        logger.log(step, {"train/loss": 1 / step} | extra)
    logger.close()
    lines = out.getvalue().splitlines()
    assert len(lines) == 21
    assert lines[0] == "step 2/40  loss 0.5000"
    assert lines[-2] == "step 39/40  loss 0.0256  held out: loss 0.5"


def test_console_on_a_terminal_shows_a_bar_with_the_time_left() -> None:
    out = io.StringIO()
    logger = ConsoleLogger(steps=4, console=Console(file=out, width=120, force_terminal=True))
    for step in range(1, 4):
        logger.log(step, LINE)
    logger.close()
    text = out.getvalue()
    assert "loss 1.2500" in text
    assert "3/4" in text


def test_wandb_gets_every_step(tmp_path: Path, monkeypatch) -> None:
    calls: list = []
    run = SimpleNamespace(log=lambda metrics, step: calls.append((step, metrics)), finish=lambda: calls.append("finished"))

    def init(**arguments):
        calls.append(arguments)
        return run

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    logger = WandbLogger(project="p", name="n", folder=tmp_path / "w", mode="offline")
    logger.log(3, LINE)
    logger.close()
    assert calls[1:] == [(3, LINE), "finished"]
    identity = calls[0].pop("id")
    assert calls[0] == {"project": "p", "name": "n", "dir": str(tmp_path / "w"), "mode": "offline", "resume": "allow"}
    WandbLogger(project="p", name="n", folder=tmp_path / "w")
    WandbLogger(project="p", name="n", folder=tmp_path / "other")
    assert [call["id"] == identity for call in calls[-2:]] == [True, False]


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_wandb_offline_writes_a_run(tmp_path: Path) -> None:
    logger = WandbLogger(project="p", name="n", folder=tmp_path, mode="offline")
    logger.log(1, LINE)
    logger.close()
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))


def test_all_of_them_are_loggers(tmp_path: Path) -> None:
    assert isinstance(JsonlLogger(tmp_path / "a"), Logger)
    assert isinstance(ConsoleLogger(steps=1), Logger)


def test_wandb_without_a_login_is_one_line(tmp_path: Path, monkeypatch) -> None:
    class UsageError(Exception):
        pass

    def init(**_: object) -> None:
        raise UsageError("No API key configured.\nUse `wandb login` to log in.")

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init, Error=UsageError))
    with pytest.raises(ValueError, match=r"wandb: No API key configured\. Use .* logger\.wandb\.mode=offline") as caught:
        WandbLogger(project="p", name="n", folder=tmp_path, mode="online")
    assert "\n" not in str(caught.value)


def test_a_closed_terminal_costs_the_lines_only() -> None:
    refused = []

    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            refused.append(text)
            raise OSError(5, "Input/output error")

    logger = ConsoleLogger(steps=1, console=Console(file=Gone(), width=200))
    logger.log(1, LINE)
    logger.close()
    assert refused


def test_a_step_that_was_left_out_has_no_loss() -> None:
    out = io.StringIO()
    logger = ConsoleLogger(steps=1, console=Console(file=out, width=200))
    logger.log(1, {"train/skipped": 1.0})
    logger.close()
    assert out.getvalue().splitlines() == ["step 1/1  left out"]
