"""A run's folder is opened once, goes on by rules, and is as it was when an attempt came to nothing."""

import json
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from vla_tune.run.changes import CHANGES_FILE, Change, differences, note, resumption
from vla_tune.run.folder import ADAPTER_FOLDER, CONFIG_FILE, RESULTS_FILE, load_config, step_folder, steps_of
from vla_tune.run.opening import open_run, opened_run
from vla_tune.training.loop import CHECKPOINTS
from vla_tune.training.resumption import Changed, Exact


def config(**changes) -> DictConfig:
    plain = {
        "task": "lift",
        "seed": 0,
        "again": "${seed}",
        "adapter": {"rank": 16, "targets": ["q_proj", "v_proj"]},
        "logger": {"jsonl": {"every": 1}},
        "training": {"steps": 4, "workers": 0, "batch_size": 8},
        "schedule": {"_target_": "vla_tune.training.optim.warmup_cosine"},
        "device": "auto",
        "resume": "same",
        "evaluation": {"films": [0, 1], "episodes": 100},
    }
    return OmegaConf.create(plain | changes)


def begun(folder: Path, *, steps: tuple[int, ...] = (2, 4), finished: bool = True, **changes: Any) -> Path:
    """A run with checkpoints, and with what it came to if it is finished."""
    open_run(config(**changes), folder)
    for step in steps:
        (folder / CHECKPOINTS / f"step_{step:06d}").mkdir(parents=True)
    if finished:
        (folder / ADAPTER_FOLDER).mkdir()
        (folder / ADAPTER_FOLDER / "adapter.safetensors").write_text("four steps")
        (folder / RESULTS_FILE).write_text("{}")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def attempt(wrote: Path) -> None:
    """One that writes a file and fails."""
    wrote.parent.mkdir(exist_ok=True)
    wrote.write_text("of the attempt")
    raise ValueError("no data")


def test_a_run_is_opened_once_and_found_again(tmp_path: Path):
    folder = tmp_path / "runs" / "one"
    open_run(config(), folder)
    assert [path.name for path in folder.iterdir()] == [CONFIG_FILE]
    written = (folder / CONFIG_FILE).read_text()
    open_run(config(), folder)
    assert (folder / CONFIG_FILE).read_text() == written
    assert OmegaConf.to_container(load_config(folder)) == OmegaConf.to_container(config(), resolve=True)


WEIGHED = [
    ({"seed": 1}, ["seed: 0 there, 1 now", "again: 0 there, 1 now"]),
    ({"optimizer": {"learning_rate": 0.1}}, ["optimizer.learning_rate: None there, 0.1 now"]),
    ({"training": {"steps": 4, "workers": 0, "batch_size": 4}}, ["training.batch_size: 8 there, 4 now"]),
    ({"training": {"steps": 3, "workers": 0, "batch_size": 8}}, ["training.steps: 4 there, 3 now"]),
    ({"evaluations": 3}, ["evaluations: None there, 3 now"]),
]


@pytest.mark.parametrize(("changes", "names"), WEIGHED)
def test_another_configuration_is_refused_and_named(tmp_path: Path, changes: dict, names: list[str]):
    before = contents(begun(tmp_path))
    with pytest.raises(ValueError, match="was written by another configuration") as caught:
        open_run(config(**changes), tmp_path)
    assert all(name in str(caught.value) for name in (*names, str(tmp_path / CONFIG_FILE), "resume=changed", "hydra.run.dir"))
    assert contents(tmp_path) == before


@pytest.mark.parametrize(("changes", "names"), WEIGHED)
def test_it_goes_on_where_that_is_said_and_noted(tmp_path: Path, changes: dict, names: list[str]):
    begun(tmp_path, finished=False)
    for _ in range(2):  # the second time, nothing is another
        open_run(config(**changes, resume="changed"), tmp_path)
    (note,) = json.loads((tmp_path / CHANGES_FILE).read_text())["changes"]
    assert note["step"] == 4
    assert not note["as_if_begun_with_it"]
    assert [f"{key}: {then!r} there, {now!r} now" for key, (then, now) in note["changed"].items()] == [
        str(change)
        for change in differences(OmegaConf.to_container(config(), resolve=True), config(**changes))  # pyright: ignore[reportArgumentType]
    ]
    assert names[0].partition(":")[0] in note["changed"]


def test_a_run_from_before_it_was_said_has_the_state_of_its_base():
    unsaid, other = (Change("model.state_dimension", before, 4) for before in (None, 6))
    assert unsaid.free
    assert other.for_good
    assert not other.free


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"adapter": {"rank": 32, "targets": ["q_proj", "v_proj"]}}, "adapter.rank"),
        ({"adapter": {"rank": 16, "targets": ["q_proj"]}}, "adapter.targets"),
        ({"adapter": {"rank": 16, "targets": ["q_proj", "v_proj"], "alpha": 1}}, "adapter.alpha"),
        ({"adapter": {"rank": 16}}, "adapter.targets"),
        ({"head": {"_target_": "other"}}, "head._target_"),
    ],
)
def test_what_was_learned_belongs_to_its_adapter(tmp_path: Path, changes: dict, key: str):
    before = contents(begun(tmp_path))
    for resume in ("same", "changed"):
        with pytest.raises(ValueError, match=rf"what was learned belongs to {key}.*another folder"):
            open_run(config(**changes, resume=resume), tmp_path)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    "changes",
    [
        {"logger": {}},
        {"logger": {"wandb": {"mode": "offline"}}},
        {"device": "cuda"},
        {"training": {"steps": 4, "workers": 3, "batch_size": 8}},
        {"training": {"steps": 4, "workers": 0, "batch_size": 8, "save_every": 1, "validate_every": 2, "keep_last": 9}},
        {"model": {"cache": "/elsewhere"}},
        {"validation": {"frames": 8}},
        {"on_non_finite": {"limit": 3}},
        {"evaluation": {"films": [], "episodes": 100}},
    ],
)
def test_what_changes_no_step_may_change(tmp_path: Path, changes: dict):
    begun(tmp_path)
    open_run(config(**changes), tmp_path)
    assert OmegaConf.to_container(load_config(tmp_path)) == OmegaConf.to_container(config(**changes), resolve=True)
    assert (tmp_path / RESULTS_FILE).is_file()
    assert not (tmp_path / CHANGES_FILE).exists()


def test_training_goes_on_exactly_but_for_what_was_noted_at_its_last_checkpoint(tmp_path: Path):
    assert resumption(tmp_path) == Exact()
    begun(tmp_path)
    assert resumption(tmp_path) == Exact()
    last = steps_of(tmp_path)[-1]
    note(tmp_path, [Change("seed", 0, 1)], step=last)
    assert resumption(tmp_path) == Changed()
    (tmp_path / CHECKPOINTS / f"step_{last + 1:06d}").mkdir()
    assert resumption(tmp_path) == Exact()


@pytest.mark.parametrize(
    "changes", [{"evaluation": {"films": [0, 1], "episodes": 3}}, {"env": {"id": "other"}}, {"execution": "b"}]
)
def test_what_was_measured_otherwise_is_measured_again(tmp_path: Path, changes: dict):
    begun(tmp_path)
    open_run(config(**changes), tmp_path)
    assert not (tmp_path / RESULTS_FILE).exists()
    assert (tmp_path / ADAPTER_FOLDER).is_dir()


def test_what_was_measured_before_chunks_could_blend_is_not_measured_again(tmp_path: Path):
    begun(tmp_path, execution={"_target_": "vla_tune.execution.AsTrained"})
    open_run(config(execution={"_target_": "vla_tune.execution.AsTrained", "blend": 0}), tmp_path)
    assert (tmp_path / RESULTS_FILE).is_file()
    open_run(config(execution={"_target_": "vla_tune.execution.AsTrained", "blend": 1}), tmp_path)
    assert not (tmp_path / RESULTS_FILE).exists()


def test_a_head_is_the_same_wherever_it_lay():
    """Runs that began when heads were a package of their own go on."""

    def run(package: str, losses: str) -> dict:
        return {"head": {"_target_": f"{package}.AutoregressiveTokenHead", "softmax": {"_target_": f"{losses}.ActionRows"}}}

    now = run("vla_tune.models.heads", "vla_tune.models.heads.codes")
    assert differences(run("vla_tune.heads", "vla_tune.heads.loss"), now) == []
    (change,) = differences(run("my_lab.heads", "vla_tune.heads.loss"), now)
    assert change.key == "head._target_"


def test_a_base_that_ships_with_the_package_is_the_same_wherever_it_lies(tmp_path: Path):
    begun(tmp_path, model={"folder": "/home/trainer/vla-tune/vla_tune/assets/tiny"})
    open_run(config(model={"folder": "/elsewhere/vla-tune/vla_tune/assets/tiny"}), tmp_path)
    with pytest.raises(ValueError, match=r"model\.folder"):
        open_run(config(model={"folder": "/elsewhere/vla-tune/vla_tune/assets/other"}), tmp_path)


@pytest.mark.parametrize(("schedule", "exact"), [("warmup_cosine", False), ("constant", True)])
def test_a_finished_run_is_given_more_steps(tmp_path: Path, schedule: str, exact: bool):
    before = begun(tmp_path, schedule={"_target_": f"vla_tune.training.optim.{schedule}"})
    adapter, written = contents(before / ADAPTER_FOLDER), (tmp_path / CONFIG_FILE).read_text()
    longer = {"steps": 8, "workers": 0, "batch_size": 8}
    open_run(config(schedule={"_target_": f"vla_tune.training.optim.{schedule}"}, training=longer), tmp_path)
    assert load_config(tmp_path).training.steps == 8
    assert not (tmp_path / ADAPTER_FOLDER).exists()
    assert not (tmp_path / RESULTS_FILE).exists()
    earlier = step_folder(tmp_path, 4)  # is a finished run itself
    assert contents(earlier / ADAPTER_FOLDER) == adapter
    assert (earlier / CONFIG_FILE).read_text() == written
    assert (earlier / RESULTS_FILE).is_file()
    (note,) = json.loads((tmp_path / CHANGES_FILE).read_text())["changes"]
    assert note == {"step": 4, "changed": {"training.steps": [4, 8]}, "as_if_begun_with_it": exact}


def test_a_warmup_grows_with_the_steps_alone(tmp_path: Path):
    cosine = {"_target_": "vla_tune.training.optim.warmup_cosine"}
    begun(tmp_path, schedule=cosine | {"warmup_steps": 2})
    longer = {"steps": 8, "workers": 0, "batch_size": 8}
    with pytest.raises(ValueError, match=r"schedule\.warmup_steps: 2 there, 4 now"):
        open_run(config(schedule=cosine | {"warmup_steps": 4}), tmp_path)
    open_run(config(schedule=cosine | {"warmup_steps": 4}, training=longer), tmp_path)
    (note,) = json.loads((tmp_path / CHANGES_FILE).read_text())["changes"]
    assert note["changed"].keys() == {"training.steps", "schedule.warmup_steps"}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"evaluation": {"films": [0, 1], "episodes": 3}},
        {"training": {"steps": 8, "workers": 0, "batch_size": 8}},
        {"seed": 2, "resume": "changed"},
    ],
)
def test_an_attempt_that_came_to_nothing_leaves_the_run_as_it_was(tmp_path: Path, changes: dict):
    before = contents(begun(tmp_path))
    with pytest.raises(ValueError, match="no data"), opened_run(config(**changes), tmp_path):
        attempt(tmp_path / "contract.json")
    assert contents(tmp_path) == before


def test_what_was_measured_stays_whatever_fails_after_it(tmp_path: Path):
    (begun(tmp_path) / RESULTS_FILE).unlink()  # an evaluation that failed
    with pytest.raises(ValueError, match="no data"), opened_run(config(evaluation={"episodes": 3}), tmp_path):
        attempt(tmp_path / RESULTS_FILE)
    assert (tmp_path / RESULTS_FILE).is_file()
    assert load_config(tmp_path).evaluation.episodes == 3


def test_a_finished_run_without_checkpoints_takes_no_more_steps(tmp_path: Path):
    before, more = contents(begun(tmp_path, steps=())), {"steps": 8, "workers": 0, "batch_size": 8}
    with pytest.raises(ValueError, match="no checkpoint any more"), opened_run(config(training=more), tmp_path):
        raise AssertionError("opened")
    assert contents(tmp_path) == before


def test_a_run_is_one_process_at_a_time(tmp_path: Path):
    run = tmp_path / "run"
    with opened_run(config(), run):
        before = sorted(path.name for path in run.iterdir())
        with pytest.raises(OSError, match="run is in use by process"), opened_run(config(), run):
            pass
        assert sorted(path.name for path in run.iterdir()) == before
    assert [path.name for path in run.iterdir()] == [CONFIG_FILE]


def test_what_was_learned_since_stays(tmp_path: Path):
    begun(tmp_path)
    with pytest.raises(ValueError, match="no data"), opened_run(config(seed=2, resume="changed"), tmp_path):
        attempt(tmp_path / CHECKPOINTS / "step_000006" / "state.json")
    assert load_config(tmp_path).seed == 2
    assert (tmp_path / CHANGES_FILE).is_file()


def test_a_run_that_fails_at_once_takes_only_what_it_wrote(tmp_path: Path):
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "mine.txt").write_text("mine")
    for folder in (tmp_path / "new", tmp_path / "shared"):
        with pytest.raises(ValueError, match="no data"), opened_run(config(), folder):
            raise ValueError("no data")
    assert not (tmp_path / "new").exists()
    assert [path.name for path in (tmp_path / "shared").iterdir()] == ["mine.txt"]


def test_another_word_is_refused(tmp_path: Path):
    begun(tmp_path)
    with pytest.raises(ValueError, match="resume='chnaged': choose same, or changed"):
        open_run(config(seed=1, resume="chnaged"), tmp_path)


@pytest.mark.parametrize("notes", ["{", "[1]", '{"changes": [1]}', '{"changes": [{"step": "2"}]}', "[" * 100_000])
def test_damaged_notes_are_one_line(tmp_path: Path, notes: str):
    begun(tmp_path)
    (tmp_path / CHANGES_FILE).write_text(notes)
    with pytest.raises(ValueError, match=r"changes\.json (is|holds)"):
        resumption(tmp_path)
