import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf

from vla_tune.run.folder import CONFIG_FILE, asset, dimension_of, folder_name, load_config, open_run, opened_run, task_of


def config(**changes) -> DictConfig:
    plain = {
        "task": "lift",
        "seed": 0,
        "again": "${seed}",
        "adapter": {"rank": 16, "targets": ["q_proj", "v_proj"]},
        "logger": {"jsonl": {"every": 1}},
        "device": "auto",
        "evaluation": {"films": [0, 1], "episodes": 100},
    }
    return OmegaConf.create(plain | changes)


@given(st.lists(st.text(max_size=20), max_size=5))
def test_a_name_needs_no_quotes(parts: list[str]):
    name = folder_name(*parts)
    assert re.fullmatch(r"[A-Za-z0-9._-]*", name)
    assert folder_name(*parts) == name
    assert folder_name(name) in (name, name.strip("_"))
    assert len(name) <= 80


@given(st.lists(st.from_regex(r"[A-Za-z0-9]{1,8}", fullmatch=True), min_size=1, max_size=5))
def test_harmless_parts_are_kept(parts: list[str]):
    assert folder_name(*parts) == "-".join(parts)


def test_names_of_runs():
    assert folder_name("tiny", "qlora_r16", "lift", "") == "tiny-qlora_r16-lift"
    assert folder_name("tiny", "lora_r16", "lift", "seed=1,training.steps=20") == "tiny-lora_r16-lift-seed_1_training.steps_20"
    assert folder_name("data=[a, b]") == "data_a_b"


def test_a_long_name_is_cut_and_tells_what_was_cut():
    words = ["tiny", "lora_r16", "lift", "data.sources.0.folder=" + "/home/student/projects/" * 5]
    name, other = folder_name(*words, "seed=1"), folder_name(*words, "seed=2")
    assert name.startswith("tiny-lora_r16-lift-data.sources.0.folder_home_student_projects")
    assert len(name) <= 80
    assert name != other
    assert folder_name(*words, "seed=1") == name


def test_a_run_is_opened_once_and_found_again(tmp_path: Path):
    folder = tmp_path / "runs" / "one"
    open_run(config(), folder)
    assert [path.name for path in folder.iterdir()] == [CONFIG_FILE]
    written = (folder / CONFIG_FILE).read_text()
    open_run(config(), folder)
    assert (folder / CONFIG_FILE).read_text() == written
    loaded = load_config(folder)
    assert OmegaConf.to_container(loaded) == OmegaConf.to_container(config(), resolve=True)


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"seed": 1}, ["seed: 0 there, 1 now", "again: 0 there, 1 now"]),
        ({"adapter": {"rank": 32, "targets": ["q_proj", "v_proj"]}}, ["adapter.rank: 16 there, 32 now"]),
        ({"adapter": {"rank": 16, "targets": ["q_proj"]}}, ["adapter.targets"]),
        ({"adapter": {"rank": 16, "targets": ["q_proj", "v_proj"], "alpha": 1}}, ["adapter.alpha: None there, 1 now"]),
        ({"adapter": {"rank": 16}}, ["adapter.targets"]),
        ({"evaluation": {"films": [0, 1], "episodes": 50}}, ["evaluation.episodes: 100 there, 50 now"]),
    ],
)
def test_another_configuration_is_refused_and_named(tmp_path: Path, changes: dict, names: list[str]):
    open_run(config(), tmp_path)
    before = (tmp_path / CONFIG_FILE).read_text()
    with pytest.raises(ValueError, match="was written by another configuration") as caught:
        open_run(config(**changes), tmp_path)
    assert all(name in str(caught.value) for name in names)
    assert str(tmp_path / CONFIG_FILE) in str(caught.value)
    assert (tmp_path / CONFIG_FILE).read_text() == before


@pytest.mark.parametrize(
    "changes",
    [
        {"logger": {}},
        {"device": "cuda"},
        {"evaluation": {"films": [], "episodes": 100}},
        {"logger": {"wandb": {"mode": "offline"}}},
    ],
)
def test_what_changes_no_result_may_change(tmp_path: Path, changes: dict):
    open_run(config(), tmp_path)
    written = (tmp_path / "config.yaml").read_text()
    open_run(config(**changes), tmp_path)
    assert (tmp_path / "config.yaml").read_text() == written


def test_a_run_that_fails_at_once_takes_only_what_it_wrote(tmp_path: Path):
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "mine.txt").write_text("mine")
    for folder in (tmp_path / "new", tmp_path / "shared"):
        with pytest.raises(ValueError, match="no data"), opened_run(config(), folder):
            raise ValueError("no data")
    assert not (tmp_path / "new").exists()
    assert [path.name for path in (tmp_path / "shared").iterdir()] == ["mine.txt"]


def test_a_run_is_one_process_at_a_time(tmp_path: Path):
    run = tmp_path / "run"
    with opened_run(config(), run):
        before = sorted(path.name for path in run.iterdir())
        with pytest.raises(OSError, match="run is in use by process"), opened_run(config(), run):
            pass
        assert sorted(path.name for path in run.iterdir()) == before
    assert [path.name for path in run.iterdir()] == [CONFIG_FILE]


def test_the_task_of_a_run_and_of_what_lies_in_it(tmp_path: Path):
    open_run(config(task="touch"), tmp_path / "run")
    assert task_of(str(tmp_path / "run")) == "touch"
    assert task_of(str(tmp_path / "run" / "merged")) == "touch"
    with pytest.raises(ValueError, match="write task=<name>"):
        task_of(str(tmp_path / "elsewhere" / "merged"))


def test_a_folder_that_is_no_run_is_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="is no training run"):
        load_config(tmp_path)


def test_the_shipped_checkpoint_lies_in_the_package():
    path = Path(asset("tiny"))
    assert path.parts[-3:] == ("vla_tune", "assets", "tiny")
    assert (path.parents[1] / "run").is_dir()
    assert OmegaConf.create({"folder": "${asset:tiny}"}).folder == str(path)


def test_the_dimension_of_groups() -> None:
    cfg = OmegaConf.create({"groups": [{"dimension": 3}, {"dimension": 1}], "size": "${dimension_of:${groups}}"})
    assert cfg.size == dimension_of([{"dimension": 4}]) == 4
