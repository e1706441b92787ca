"""The suite for a GPU, end to end at a tiny size on a CPU."""

import json
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir

from vla_tune.bench import command, gpu_training
from vla_tune.bench.budget import Budget
from vla_tune.bench.command import ADAPTERS, DEFAULTS, main, suite_of
from vla_tune.bench.gpu_suite import GPUSuite
from vla_tune.bench.gpu_table import summary
from vla_tune.run.bench import bench
from vla_tune.run.objects import build

CONF = Path(__file__).parents[2] / "conf"

PARTS = {"device": 1, "acting": 8, "training": 6}
TRAINED = ("samples_per_second", "step_seconds", "flops_per_second", "share_of_matmul", "planned_bytes", "step_flops")


@pytest.fixture
def words(architecture: Path, tmp_path: Path) -> list[str]:
    quick = ["batches=1,2", "compiled_batches=", "launches=eager,graphs", "seconds_per_cell=0.01", "matmul_size=64"]
    return [f"architecture={architecture}", f"output={tmp_path}/rows.json", "device=cpu", "copy_bytes=100000", *quick]


@pytest.fixture(scope="module")
def measured(architecture: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    path = tmp_path_factory.mktemp("rows") / "rows.json"
    quick = ["batches=1,2", "compiled_batches=", "launches=eager,graphs", "seconds_per_cell=0.01", "matmul_size=64"]
    place = [f"architecture={architecture}", f"output={path}", "device=cpu", "copy_bytes=100000"]
    rows = suite_of([*place, *quick]).rows()
    return rows, json.loads(path.read_text())


@pytest.mark.ci  # a whole suite: what it is made of has tests of its own
def test_every_cell_is_measured_and_written(measured):
    rows, written = measured
    assert [row["status"] for row in rows] == ["measured"] * sum(PARTS.values())
    assert {part: sum(row["part"] == part for row in rows) for part in PARTS} == PARTS
    assert written["rows"] == rows
    assert written["machine"]["versions"]["torch"]
    assert len({row["work"] for row in rows}) == len(rows)


@pytest.mark.ci  # a whole suite: what it is made of has tests of its own
def test_training_is_compared_with_the_planner_and_the_matrix_product(measured):
    rows, _ = measured
    peak = rows[0]["matmul_flops"]
    for row in (row for row in rows if row["part"] == "training"):
        assert all(row[name] > 0 for name in TRAINED)
        assert row["peak_bytes"] is row["peak_over_plan"] is None, "a CPU does not count them"
        assert row["share_of_matmul"] == pytest.approx(row["step_flops"] / row["step_seconds"] / peak)
        assert row["samples_per_second"] == pytest.approx(row["batch_size"] / row["step_seconds"])
        assert row["fits_by_plan"]
    trained = {(row["adapter"], row["batch_size"]): row["step_flops"] for row in rows if row["part"] == "training"}
    assert set(trained) == {(name, size) for name in ADAPTERS for size in (1, 2)}
    assert all(trained[name, 2] == pytest.approx(2 * trained[name, 1]) for name in ADAPTERS)


@pytest.mark.ci  # a whole suite: what it is made of has tests of its own
def test_acting_is_compared_with_the_floor(measured):
    rows, _ = measured
    acting = {(row["base"], row["decoding"], row["launch"]): row for row in rows if row["part"] == "acting"}
    decodings, launches = ("autoregressive", "parallel"), ("eager", "graphs")
    assert set(acting) == {(base, decoding, launch) for base in ("bf16", "nf4") for decoding in decodings for launch in launches}
    for row in acting.values():
        assert row["times_floor"] == pytest.approx(row["milliseconds"] / row["floor_milliseconds"])
        assert row["milliseconds_low"] <= row["milliseconds"] <= row["milliseconds_high"]
        assert row["actions"] == (1 if row["decoding"] == "autoregressive" else 8)


def test_what_does_not_fit_is_a_row_and_is_tried_with_checkpointing(words: list[str], monkeypatch: pytest.MonkeyPatch):
    real = gpu_training.update

    def small(objective: Any, optimizer: Any, batches: Any, **more: Any) -> Any:
        layers = objective.network.language_model.model.layers
        if len(batches[0]) == 2 and not layers[0].gradient_checkpointing:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")
        return real(objective, optimizer, batches, **more)

    monkeypatch.setattr(gpu_training, "update", small)
    rows = [row for row in suite_of([*words, "bases=", "adapters=lora_r16"]).rows() if row["part"] == "training"]
    assert [(row["batch_size"], row["variant"], row["status"]) for row in rows] == [
        (1, "eager", "measured"),
        (2, "eager", "out of memory"),
        (2, "checkpointed", "measured"),
    ]
    assert rows[1]["reason"] == "CUDA out of memory. Tried to allocate 2.00 GiB."
    assert rows[1]["planned_bytes"] > rows[2]["planned_bytes"] > 0
    assert rows[1]["step_flops"] == rows[2]["step_flops"], "what is run again is not counted"
    assert "OUT OF MEMORY (planned: 0.0 GB): CUDA out of memory" in summary(rows)


def test_what_is_left_when_the_time_is_over_is_named(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    stopped = partial(Budget, clock=lambda: 0.0)
    monkeypatch.setattr(command, "suite_of", lambda words: replace(suite_of(words), budget=stopped))
    assert main([*words, "total_seconds=6", "bases=bf16", "adapters=lora_r16"]) == 0
    printed = capsys.readouterr().out
    assert "training: lora_r16, batch 2, eager" in printed
    assert "SKIPPED (planned: 0.0 GB): 6 s of 6 s are left, and this takes about 15 s" in printed


def test_rows_so_far_outlive_an_interruption(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    real = gpu_training.update

    def interrupted(objective: Any, optimizer: Any, batches: Any, **more: Any) -> Any:
        if len(batches[0]) == 2:
            raise KeyboardInterrupt
        return real(objective, optimizer, batches, **more)

    monkeypatch.setattr(gpu_training, "update", interrupted)
    with pytest.raises(KeyboardInterrupt):
        suite_of([*words, "bases=", "adapters=lora_r16"]).rows()
    assert [row["part"] for row in json.loads((tmp_path / "rows.json").read_text())["rows"]] == ["device", "training"]


def test_a_failure_is_in_the_exit_code(words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no kernel image")

    monkeypatch.setattr(gpu_training, "update", broken)
    assert main([*words, "bases=", "adapters=lora_r16", "batches=1"]) == 1
    assert "FAILED (planned: 0.0 GB): RuntimeError: no kernel image" in capsys.readouterr().out


def configured(*overrides: str) -> Any:
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return compose("bench", overrides=["suite=gpu_7b", "device=cpu", *overrides])


def tuples(adapters: Any) -> dict[str, dict[str, Any]]:
    """YAML has lists where Python may have tuples."""
    fields = {name: asdict(adapter) for name, adapter in adapters.items()}
    return {
        name: {key: tuple(value) if isinstance(value, list) else value for key, value in each.items()}
        for name, each in fields.items()
    }


def test_the_command_s_defaults_are_the_configuration_s():
    suite, words = build(configured("to=gpu_7b.json").suite), suite_of(["device=cpu"])
    assert isinstance(suite, GPUSuite)
    assert tuples(suite.adapters) == tuples(words.adapters)
    assert suite.optimizer.keywords == words.optimizer.keywords  # pyright: ignore[reportFunctionMemberAccess]
    assert all(getattr(suite, name) == getattr(words, name) for name in DEFAULTS if name != "adapters")


@pytest.mark.ci  # a whole suite: what it is made of has tests of its own
def test_the_script_runs_it_too(architecture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    few = ["batches=[]", "compiled_batches=[]", "bases=[]", "matmul_size=64", "copy_bytes=100000"]
    changes = [f"suite.{word}" for word in [*few, "seconds_per_cell=0.01", f"architecture={architecture}"]]
    rows = bench(configured(*changes, f"threads={torch.get_num_threads()}", f"to={tmp_path}/rows.json"))
    assert [row["part"] for row in rows] == ["device"]
    assert json.loads((tmp_path / "rows.json").read_text())["rows"] == rows
    assert "1 cells in" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("batchs=1", "'batchs=1' is not understood: write key=value with a key of architecture"),
        ("fast", "'fast' is not understood"),
        ("batches=one", "'batches=one': a value like '1,8,16,24' is expected"),
        ("adapters=lora_r17", "adapters=lora_r17: 'lora_r17' is unknown, choose of openvla_all_linear_r32"),
        ("launches=graph", "'graph' is unknown, choose of eager, graphs, compiled_graphs"),
    ],
)
def test_a_mistake_in_the_words_is_one_line(word: str, message: str, capsys: pytest.CaptureFixture[str]):
    assert main(["device=cpu", word]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_default_says_what_to_do(capsys: pytest.CaptureFixture[str]):
    assert main([]) == 2
    assert "device=cuda: there is no GPU here. Use device=cpu with a small architecture" in capsys.readouterr().err


def test_help_lists_every_key(capsys: pytest.CaptureFixture[str]):
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(f"  {name}=" in printed for name in DEFAULTS)
