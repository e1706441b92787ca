from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from vla_tune.adapters import Lora
from vla_tune.adapters.merging import merged
from vla_tune.data.collate import Batch
from vla_tune.models.nf4 import num_quantized
from vla_tune.models.openvla import OpenVLA, OpenVLACheckpoint
from vla_tune.models.openvla.additions import Addition, Film, Proprioception, Regression
from vla_tune.models.openvla.load import load, load_config
from vla_tune.models.openvla.save import save_checkpoint

ALL = {"action_head": Regression(action_dimension=4), "state": Proprioception(state_dimension=4), "film": Film()}


@pytest.fixture
def folder(tmp_path: Path, tiny_config_record, tiny_tokenizer, tiny_contract) -> Path:
    """A base without state."""
    torch.manual_seed(0)
    model = OpenVLA(type(tiny_config_record).from_dict(tiny_config_record.to_dict() | {"proprio_dimension": 0}))
    save_checkpoint(tmp_path / "base", model, tiny_tokenizer, tiny_contract, dtype=torch.float32)
    return tmp_path / "base"


def loaded(folder: Path, additions: Mapping[str, Addition] = ALL, *, base: str = "fp32", seed: int = 1) -> OpenVLA:
    torch.manual_seed(seed)
    return OpenVLACheckpoint(str(folder), base=base, additions=additions).load(device="cpu")


def test_modules_under_the_originals_names(folder: Path):
    """OpenVLA-OFT's (golden/oft/meta.json); the base's own names stay."""
    plain, model = load(folder, base="fp32"), loaded(folder)
    assert all(isinstance(addition, Addition) for addition in ALL.values())
    added = {name: tuple(weight.shape) for name, weight in model.named_parameters() if name not in dict(plain.named_parameters())}
    blocks = [f"vision_backbone.featurizer.blocks.{block}.{part}" for block in range(3) for part in ("scale", "shift")]
    inner = [f"action_head.model.mlp_resnet_blocks.{block}.ffn" for block in range(2)]
    weights = {f"{name}.weight": (128, 192) for name in blocks}
    weights |= {f"{name}.0.weight": (192,) for name in inner} | {f"{name}.1.weight": (192, 192) for name in inner}
    weights |= {"proprio_projector.fc1.weight": (192, 4), "proprio_projector.fc2.weight": (192, 192)}
    weights |= {"action_head.model.layer_norm1.weight": (768,), "action_head.model.layer_norm2.weight": (192,)}
    weights |= {"action_head.model.fc1.weight": (192, 768), "action_head.model.fc2.weight": (4, 192)}
    assert added == weights | {name.replace(".weight", ".bias"): shape[:1] for name, shape in weights.items()}
    assert all(torch.equal(weight, dict(model.named_parameters())[name]) for name, weight in plain.named_parameters())


@torch.no_grad()
def test_film_starts_as_the_same_function(folder: Path, tiny_batch: Batch):
    plain, filmed = load(folder, base="fp32"), loaded(folder, {"film": Film()})
    torch.testing.assert_close(filmed(tiny_batch), plain(tiny_batch), atol=1e-6, rtol=1e-6)
    filmed.vision_backbone.featurizer.blocks[1].shift.weight.add_(0.1)
    assert (filmed(tiny_batch) - plain(tiny_batch)).abs().max() > 1e-4
    filmed.vision_backbone.featurizer.blocks[1].shift.weight.zero_()
    filmed.vision_backbone.featurizer.blocks[2].shift.weight.add_(0.1)
    torch.testing.assert_close(filmed(tiny_batch), plain(tiny_batch), atol=1e-6, rtol=1e-6)


@torch.no_grad()
def test_every_view_hears_its_own_instruction(folder: Path, tiny_batch: Batch):
    model = loaded(folder, {"film": Film()})
    for block in model.vision_backbone.featurizer.blocks:
        block.scale.weight.normal_()
    views = torch.randn(3, 2, 3, 64, 64)
    batch = replace(tiny_batch, pixel_values=views)
    context = model.context(views, batch.state, model.language(batch))
    for view in range(2):
        alone = replace(batch, pixel_values=views[:, view : view + 1])
        own = model.context(alone.pixel_values, batch.state, model.language(batch))
        torch.testing.assert_close(context[:, 16 * view : 16 * (view + 1)], own, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_codes_of_a_causal_sequence_are_not_heard(folder: Path, tiny_batch: Batch):
    model = loaded(folder, {"film": Film()})
    causal = replace(tiny_batch, placeholders=torch.zeros_like(tiny_batch.placeholders), parallel=False)
    behind = torch.arange(causal.input_ids.shape[1]) >= causal.prompt_length[:, None]
    other = replace(causal, input_ids=causal.input_ids.masked_fill(behind, 300))
    assert torch.equal(model.language(causal), model.language(other))
    prefilled = model.prefill(replace(causal, attention_mask=causal.attention_mask & ~behind))
    assert prefilled.hidden.shape == (3, 192)


def test_weights_are_drawn_as_torch_draws_them(folder: Path):
    """Uniformly within 1 over the root of the inputs; the same seed gives the same."""
    first, again, other = (loaded(folder, seed=seed) for seed in (1, 1, 2))
    for name in ("action_head.model.fc1.weight", "proprio_projector.fc2.bias"):
        weights = [dict(model.named_parameters())[name] for model in (first, again, other)]
        assert torch.equal(weights[0], weights[1])
        assert not torch.equal(weights[0], weights[2])
    bound = 768**-0.5
    drawn = first.action_head.model.fc1.weight
    assert drawn.abs().max() <= bound
    assert drawn.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)
    assert (first.action_head.model.layer_norm1.weight == 1).all()
    assert not any(weight.any() for name, weight in first.named_parameters() if ".scale." in name or ".shift." in name)


def test_additions_have_the_dtype_of_the_base_and_are_never_quantised(folder: Path):
    plain, model = load(folder, base="nf4"), loaded(folder, base="nf4")
    assert num_quantized(model) == num_quantized(plain) == 28
    added = [weight for name, weight in model.named_parameters() if name.startswith(("action_head", "proprio"))]
    assert {weight.dtype for weight in added} == {torch.bfloat16}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_written_and_read_back(folder: Path, tmp_path: Path, tiny_contract, tiny_batch: Batch, dtype: torch.dtype):
    model, checkpoint = loaded(folder), OpenVLACheckpoint(str(folder), base="fp32", additions=ALL)
    for weight in model.parameters():
        weight.copy_((weight + 0.01 * torch.randn_like(weight)).to(dtype))
    tensors = {name: weight.to(dtype) for name, weight in model.named_parameters()}
    (tmp_path / "written").mkdir()
    checkpoint.write(tmp_path / "written", tensors, tiny_contract)
    config = load_config(tmp_path / "written")
    assert (config.action_head_dimension, config.proprio_dimension, config.film_dimension) == (4, 4, 192)
    again = load(tmp_path / "written", base="fp32")
    assert again.untrained == ()
    assert torch.equal(again(tiny_batch), model(tiny_batch))
    hidden = model(tiny_batch)[:, :16]
    assert torch.equal(again.action_values(hidden), model.action_values(hidden))
    with_them = loaded(tmp_path / "written")
    assert all(torch.equal(weight, dict(model.named_parameters())[name]) for name, weight in with_them.named_parameters())
    assert with_them.untrained == model.untrained, "named again, they learn again"


def test_a_base_without_additions_does_not_mention_them(folder: Path):
    record = load_config(folder).to_dict()
    assert record["film_dimension"] == record["action_head_dimension"] == 0
    text = (folder / "config.json").read_text()
    assert "film_dimension" not in text
    assert "action_head_dimension" not in text
    assert not [name for name in load_file(folder / "model.safetensors") if "action_head" in name]


@pytest.fixture
def of_another_robot(folder: Path, tmp_path: Path, tiny_contract) -> Path:
    """A base that reads four state dimensions and regresses four action dimensions."""
    model = loaded(folder)
    (tmp_path / "written").mkdir()
    OpenVLACheckpoint(str(folder), additions=ALL).write(tmp_path / "written", dict(model.state_dict()), tiny_contract)
    return tmp_path / "written"


def fitted(base: Path, *, state: int | None, additions: Mapping[str, Addition] | None = None) -> OpenVLACheckpoint:
    return OpenVLACheckpoint(str(base), base="fp32", additions=additions or {}, state_dimension=state)


def drawn(checkpoint: OpenVLACheckpoint, *, seed: int = 1) -> OpenVLA:
    torch.manual_seed(seed)
    return checkpoint.load(device="cpu")


def test_parts_for_another_robots_dimensions_begin_anew(of_another_robot: Path):
    checkpoint = fitted(of_another_robot, state=6, additions={"action_head": Regression(action_dimension=7)})
    before, model = load(of_another_robot, base="fp32").state_dict(), drawn(checkpoint)
    anew = {name for name in before if name.startswith(("action_head", "proprio_projector"))}
    assert model.proprio_projector.fc1.weight.shape == (192, 6)
    assert model.action_head.model.fc2.weight.shape == (7, 192)
    assert {"action_head", "proprio_projector"} == set(model.untrained), "they learn in full"
    assert all(torch.equal(weight, before[name]) for name, weight in model.named_parameters() if name not in anew)
    assert model.made_anew == (
        "proprio_projector for 6 state dimensions (the base's is for 4)",
        "action_head for 7 action dimensions (the base's is for 4)",
    )
    again, other = drawn(checkpoint).state_dict(), drawn(checkpoint, seed=2).state_dict()
    assert all(torch.equal(again[name], weight) for name, weight in model.named_parameters())
    assert not torch.equal(other["proprio_projector.fc1.weight"], again["proprio_projector.fc1.weight"])


@pytest.mark.parametrize("state", [4, None])
def test_a_base_for_as_many_dimensions_stays_as_it_is(of_another_robot: Path, state: int | None):
    model = drawn(fitted(of_another_robot, state=state))
    assert model.untrained == model.made_anew == ()
    assert all(
        torch.equal(weight, model.state_dict()[name]) for name, weight in load(of_another_robot, base="fp32").named_parameters()
    )


def test_a_base_that_reads_no_state_gets_no_projector_unasked(folder: Path):
    assert not hasattr(drawn(fitted(folder, state=6)), "proprio_projector")


@torch.no_grad()
def test_what_was_learned_for_another_robot_is_merged_in_its_size(
    of_another_robot: Path, tmp_path: Path, tiny_contract, tiny_batch
):
    checkpoint, lora = fitted(of_another_robot, state=6), Lora(rank=2, alpha=4, targets=["q_proj"], base="fp32")
    model = drawn(checkpoint)
    said = str(lora.attach(model))
    assert "New for this robot: proprio_projector for 6 state dimensions (the base's is for 4)." in said
    for parameter in model.parameters():
        parameter += 0.01 * torch.randn_like(parameter) * parameter.requires_grad
    assert model.proprio_projector.fc1.weight.requires_grad
    (tmp_path / "adapter").mkdir()
    lora.save(tmp_path / "adapter", model, base_hash="0" * 64)
    again = drawn(checkpoint, seed=3)
    lora.attach(again)
    lora.load(tmp_path / "adapter", again, base_hash="0" * 64)
    (tmp_path / "merged").mkdir()
    weights = merged(checkpoint.weights(), lora.changes(tmp_path / "adapter", base_hash="0" * 64), dtype=torch.float32)
    checkpoint.write(tmp_path / "merged", weights, tiny_contract)
    assert load_config(tmp_path / "merged").proprio_dimension == 6
    wide = replace(tiny_batch, state=torch.randn(len(tiny_batch), 6))
    expected = model(wide)
    assert torch.equal(again(wide), expected)
    torch.testing.assert_close(load(tmp_path / "merged", base="fp32")(wide), expected, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match=r"reads a state of 6 values, this robot has 4: say \+model.state_dimension="):
        model(tiny_batch)


@torch.no_grad()
def test_a_robot_without_a_state_leaves_the_projector_out(of_another_robot: Path, tmp_path: Path, tiny_contract, tiny_batch: Batch):
    checkpoint, nothing = fitted(of_another_robot, state=0), replace(tiny_batch, state=torch.zeros(len(tiny_batch), 0))
    model = drawn(checkpoint)
    assert not hasattr(model, "proprio_projector")
    assert model.made_anew == ("proprio_projector left out (the base's is for 4)",)
    (tmp_path / "written_again").mkdir()
    checkpoint.write(tmp_path / "written_again", checkpoint.weights(), tiny_contract)
    assert torch.equal(load(tmp_path / "written_again", base="fp32")(nothing), model(nothing))
    assert checkpoint.outline().state_tokens == 0
    with pytest.raises(ValueError, match="this robot has no state"):
        fitted(of_another_robot, state=0, additions={"state": Proprioception(state_dimension=0)}).load(device="cpu")
