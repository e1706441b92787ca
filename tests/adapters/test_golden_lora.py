"""LoRA against what the original's code and peft 0.11.1 computed in float32 on the CPU (openvla c8f03f4, torch 2.2).

`golden/lora_llm`: rank 8, alpha 16, the five projections of the language model. `golden/lora_all`: rank 8, alpha 4, peft's old
"all-linear", which takes the patch embedding (a convolution) and `lm_head` along. B is random in both.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from vla_tune.adapters import PublishedLora
from vla_tune.adapters.lora import update
from vla_tune.models.heads import ActionSpace, AutoregressiveTokenHead
from vla_tune.tokens.bins import BinTokenizer, uniform_edges

GOLDEN = Path(__file__).parents[1] / "golden"
PREFIX = "base_model.model."
CASES = ("lora_llm", "lora_all")


def golden(case: str) -> tuple[dict, dict[str, np.ndarray]]:
    return json.loads((GOLDEN / case / "meta.json").read_text()), dict(np.load(GOLDEN / case / "outputs.npz"))


@pytest.fixture
def attached(golden_base):
    def build(case: str, dtype: torch.dtype = torch.float32):
        model = golden_base(dtype)
        adapter = PublishedLora(folder=str(GOLDEN / case), base={torch.float32: "fp32", torch.bfloat16: "bf16"}[dtype])
        return adapter, model, adapter.attach(model)

    return build


@pytest.fixture(scope="module")
def head() -> AutoregressiveTokenHead:
    tokenizer = BinTokenizer(uniform_edges(256), vocabulary_size=800)
    return AutoregressiveTokenHead(
        ActionSpace(tokenizer=tokenizer, horizon=1, action_dimension=7, stop_id=2),
    )


def test_what_is_adapted(attached):
    towers = dict(attached("lora_all")[2].modules)
    assert towers == {"vision_backbone": 18, "projector": 2, "language_model": 15}
    assert dict(attached("lora_llm")[2].modules) == {"vision_backbone": 0, "projector": 0, "language_model": 10}


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_logits_and_loss(attached, golden_batch, head, case):
    meta, outputs = golden(case)
    _, model, _ = attached(case)
    hidden = model.hidden_states(golden_batch, model.context(golden_batch.pixel_values, golden_batch.state))
    logits = model.vocabulary_logits(hidden[0]).numpy()
    length = int(golden_batch.attention_mask[0].sum()) + 256
    known = outputs["logits_positions"] < length
    assert known.sum() > 60
    ours = logits[outputs["logits_positions"][known]][:, outputs["vocab_subset"]]
    assert np.abs(ours - outputs["logits_subset"][0, known]).max() < 2e-4
    sums = torch.from_numpy(logits[:length]).logsumexp(dim=-1).numpy()
    assert np.abs(sums - outputs["logsumexp"][0, :length]).max() < 2e-4
    assert head.over(model).loss(golden_batch).loss.item() == pytest.approx(meta["loss"], abs=1e-5)
    assert abs(meta["loss"] - meta["loss_base"]) > 0.01


@pytest.mark.parametrize("case", CASES)
def test_gradients_and_five_steps(attached, golden_batch, head, case):
    meta, _ = golden(case)
    _, model, _ = attached(case)
    learning = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    optimizer = torch.optim.AdamW(learning.values(), lr=5e-4)
    losses = []
    for step in range(5):
        loss = head.over(model).loss(golden_batch).loss
        losses.append(loss.item())
        loss.backward()
        if step == 0:
            norms = {name: parameter.grad for name, parameter in learning.items()}
            check_norms(norms, {name.removeprefix(PREFIX): norm for name, norm in meta["grad_norms"].items()}, relative=1e-4)
        optimizer.step()
        optimizer.zero_grad()
    assert losses == pytest.approx(meta["adamw_lr5e-4_losses_step0to4"], abs=1e-4)
    after = {name.removeprefix(PREFIX): norm for name, norm in meta["param_norms_after5"].items()}
    check_norms({name: parameter.detach() for name, parameter in learning.items()}, after, relative=1e-5)


def check_norms(found: dict[str, Tensor | None], expected: dict[str, float | None], *, relative: float) -> None:
    assert found.keys() == expected.keys()
    for name, norm in expected.items():
        tensor = found[name]
        own = None if tensor is None else tensor.norm().item()
        assert own == (None if norm is None else pytest.approx(norm, rel=relative, abs=1e-6)), name


@pytest.mark.parametrize("case", CASES)
def test_merged_weights(attached, golden_batch, golden_base, head, case, merge_in_memory):
    meta, outputs = golden(case)
    adapter, model, _ = attached(case)
    merged = merge_in_memory(adapter, model, dtype=torch.float32)
    base = golden_base().state_dict()
    assert {name for name in merged if not torch.equal(merged[name], base[name])} == meta["merged_norm"].keys()
    check_norms({name: merged[name] for name in meta["merged_norm"]}, meta["merged_norm"], relative=1e-6)
    weights = [key for key in outputs if key.startswith("merged|")]
    assert len(weights) == (2 if case == "lora_llm" else 5)
    for key in weights:
        assert np.abs(merged[key.removeprefix("merged|")].numpy() - outputs[key]).max() < 1e-6
    plain = golden_base()
    plain.load_state_dict(merged)
    with torch.no_grad():
        assert head.over(plain).loss(golden_batch).loss.item() == pytest.approx(meta["loss"], abs=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_merged_bfloat16_weights(attached, golden_base, case, merge_in_memory):
    """Ours are the exact sums rounded once. The original rounds A, B, their product and the sum, each to bfloat16."""
    _, outputs = golden(case)
    adapter, model, _ = attached(case, torch.bfloat16)
    merged, base = merge_in_memory(adapter, model, dtype=torch.bfloat16), golden_base().state_dict()
    keys = [key for key in outputs if key.startswith("merged_bf16_as_u16|")]
    assert len(keys) == (2 if case == "lora_llm" else 5)
    for key in keys:
        name = key.partition("|")[2]
        layer = model.get_submodule(name.removesuffix(".weight"))
        ours, theirs = merged[name], torch.from_numpy(outputs[key].view(np.int16)).view(torch.bfloat16)
        exact = base[name].double() + update(layer).double()
        products = (layer.lora_B.default.weight.abs().flatten(1) @ layer.lora_A.default.weight.abs().flatten(1)).view_as(exact)
        rounding = 2.0**-7 * (exact.abs() + 1.5 * layer.scaling["default"] * products)
        assert ((ours.double() - exact).abs() <= 2.0**-8 * exact.abs()).all(), name
        assert ((ours.double() - theirs.double()).abs() <= rounding).all(), name
        assert (ours == theirs).float().mean() > 0.8, name
