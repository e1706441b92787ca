"""scripts/export.py: one folder, written only when every way to the model is the same."""

import json
from pathlib import Path

import numpy as np
import pytest
from lerobot.configs.types import FeatureType

from vla_tune.data.recorded import observation_in
from vla_tune.export import ParityError
from vla_tune.export.lerobot_layout import policy_config
from vla_tune.run import deployed, gates
from vla_tune.run import export as module
from vla_tune.run.export import export_run
from vla_tune.run.objects import load_policy

LOOSE = ["dtype=fp32", "tolerance.token_agreement=0.5", "tolerance.mean_error=1.0", "tolerance.loss_noise=1.0"]
"""What the adapters of these tests learned is noise, which puts many values on the edge of two bins."""


@pytest.fixture
def exported(run_of, frames, configuration, monkeypatch):
    """Exports what a finished run learned; its recorded frames are those of the test."""
    for place in (module, gates):
        monkeypatch.setattr(place, "data_of", lambda run: None)
        monkeypatch.setattr(place, "recorded_frames", lambda data, *, count: frames[:count])

    def make(adapter: str, **options) -> tuple[Path, Path]:
        run = run_of("one", adapter=adapter, seed=1, **options)
        export_run(configuration("export", f"run={run}", f"to={run.parent / 'robot'}", "frames=3", "observations=6", *LOOSE))
        return run, run.parent / "robot"

    return make


def test_a_merged_policy_is_all_that_a_robot_needs(exported, frames, tiny_contract, base: Path):
    _, folder = exported("lora_r2")
    for path in base.iterdir():
        path.unlink()  # a robot computer has never seen it
    files = {path.name for path in folder.iterdir()}
    assert files == {
        "hf",
        "contract.json",
        "config.json",
        "policy_preprocessor.json",
        "policy_postprocessor.json",
        "README.md",
        "parity.json",
    }
    policy = load_policy(folder, rows=1, device="cpu").policy
    assert policy.act([observation_in(frames[0], tiny_contract.embodiment)]).shape == (1, 4, 4)
    card = (folder / "README.md").read_text()
    assert "bit for bit those of training" in card
    assert "tool_translation [3] delta, m, frame table" in card
    assert "It was not evaluated." in card


def test_what_cannot_be_merged_is_exported_with_its_base(exported, frames, tiny_contract, base: Path):
    run, folder = exported("houlsby_64")
    seen = [observation_in(frame, tiny_contract.embodiment) for frame in frames[:2]]
    live = load_policy(run, rows=1, device="cpu").policy.act(seen)
    for path in base.iterdir():
        path.unlink()
    assert np.allclose(load_policy(folder, rows=1, device="cpu").policy.act(seen), live)
    assert "not linear" in (folder / "README.md").read_text()


def test_another_image_on_the_way_is_named_and_nothing_is_written(exported, monkeypatch):
    seen = deployed.observation_in

    def brighter(frame, body):
        frame = {name: np.minimum(value + 1, 255).astype(np.uint8) if "images" in name else value for name, value in frame.items()}
        return seen(frame, body)

    monkeypatch.setattr(deployed, "observation_in", brighter)
    with pytest.raises(ParityError, match="the model's inputs differ in pixel_values"):
        exported("lora_r2")
    assert not list(Path(module.__file__).parent.glob("*.partial"))


def test_another_action_behind_the_server_is_named(exported, monkeypatch):
    monkeypatch.setattr(
        deployed, "alone", lambda policy: lambda observations, names: [2 * chunk for chunk in policy.act(observations)]
    )
    with pytest.raises(ParityError, match="served and local actions differ by at most"):
        exported("lora_r2")


def test_lerobot_is_told_names_and_shapes(tiny_contract):
    config = policy_config(tiny_contract)
    assert config["input_features"]["observation.images.front"] == {"type": FeatureType.VISUAL.value, "shape": [3, 64, 64]}
    assert config["action_feature_names"] == ["tool_translation_0", "tool_translation_1", "tool_translation_2", "suction"]
    assert json.loads(json.dumps(config)) == config
