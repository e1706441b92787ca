import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from vla_tune.run.folder import CONFIG_FILE, asset, asset_named, dimension_of, folder_name, load_config, task_of


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
    assert folder_name("bc", ["lift", 4], None, "all") == "bc-lift_4-all"
    assert len(folder_name("bc", "full", [f"task_{number}" for number in range(90)])) <= 80


def test_a_long_name_is_cut_and_tells_what_was_cut():
    words = ["tiny", "lora_r16", "lift", "data.sources.0.folder=" + "/home/student/projects/" * 5]
    name, other = folder_name(*words, "seed=1"), folder_name(*words, "seed=2")
    assert name.startswith("tiny-lora_r16-lift-data.sources.0.folder_home_student_projects")
    assert len(name) <= 80
    assert name != other
    assert folder_name(*words, "seed=1") == name


def test_the_task_of_a_run_and_of_what_lies_in_it(tmp_path: Path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / CONFIG_FILE).write_text("task: touch\n")
    assert task_of(str(tmp_path / "run")) == "touch"
    assert task_of(str(tmp_path / "run" / "merged")) == "touch"
    for written, task in {"[0, 4]": ["0", "4"], "all": "all", "3": "3"}.items():
        (tmp_path / "run" / CONFIG_FILE).write_text(f"task: {written}\n")
        assert task_of(str(tmp_path / "run")) == task
    (tmp_path / "run" / CONFIG_FILE).write_text("task: [../a]\n")
    with pytest.raises(ValueError, match="which names no task"):
        task_of(str(tmp_path / "run"))
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
    assert asset_named(path) == asset_named("/home/trainer/vla-tune/vla_tune/assets/tiny") == "tiny"
    assert asset_named("/models/tiny") is None


def test_the_dimension_of_groups() -> None:
    cfg = OmegaConf.create({"groups": [{"dimension": 3}, {"dimension": 1}], "size": "${dimension_of:${groups}}"})
    assert cfg.size == dimension_of([{"dimension": 4}]) == 4
