"""Prefix-tuning and P-tuning: seen from every position, learned, strict files, refused where there is nothing to merge."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from vla_tune.adapters import Adapter, PrefixTuning, PTuning
from vla_tune.adapters.bank import AdapterBank
from vla_tune.models.heads import AutoregressiveTokenHead
from vla_tune.models.heads.autoregressive import prompt_of
from vla_tune.models.openvla import OpenVLA
from vla_tune.models.precision import set_attention

HASH = "0" * 64
COUNT = 5
METHODS = {"prefix": PrefixTuning(count=COUNT, base="fp32"), "p_tuning": PTuning(count=COUNT, hidden=16, base="fp32")}
CLOSE = {"atol": 2e-5, "rtol": 1e-4}


def attached(model: OpenVLA, method: str, seed: int = 0, **changes) -> Adapter:
    torch.manual_seed(seed)
    adapter = replace(METHODS[method], **changes)
    adapter.attach(model)
    return adapter


def learned(model: OpenVLA) -> dict[str, torch.nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("parallel", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_every_position_behind_them_sees_them(tiny_model, tiny_batch, method, parallel):
    """The gradient of each position's state with respect to each virtual token, and each state moves when the tokens do."""
    model = tiny_model.eval()
    batch = tiny_batch if parallel else prompt_of(tiny_batch)
    attached(model, method)
    hidden = model(batch)
    assert hidden.shape[:2] == batch.input_ids.shape, "their own positions are left out"
    seen_by = range(hidden.shape[1]) if method == "prefix" or parallel else range(1, hidden.shape[1])
    tokens = [p for name, p in learned(model).items() if name.endswith(("values", "codes.weight"))]
    for position in seen_by:
        gradients = torch.autograd.grad(hidden[0, position].square().sum(), tokens, retain_graph=True)
        assert all(gradient.reshape(-1, COUNT, gradient.shape[-1]).norm(dim=(0, 2)).min() > 0 for gradient in gradients)


@pytest.mark.parametrize("method", METHODS)
def test_patches_stay_behind_bos(tiny_model, tiny_batch, method):
    """What the model reads differs from the base's by virtual tokens behind the patches and the state, or by none."""
    context = tiny_model.context(tiny_batch.pixel_values, tiny_batch.state)
    before, seen = tiny_model.sequence(tiny_batch, context)
    attached(tiny_model, method)
    longer = tiny_model.context(tiny_batch.pixel_values, tiny_batch.state)
    after, after_seen = tiny_model.sequence(tiny_batch, longer)
    count = COUNT if method == "p_tuning" else 0
    end = 1 + context.shape[1]
    assert after.shape[1] == before.shape[1] + count
    assert torch.equal(after[:, :end], before[:, :end])
    assert torch.equal(after[:, end + count :], before[:, end:])
    assert torch.equal(after_seen[:, end + count :], seen[:, end:])


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("method", METHODS)
@torch.no_grad()
def test_cached_decoding_is_the_whole_pass(tiny_model, tiny_batch, tiny_head, method, padded, attention):
    model, prompt = tiny_model.eval(), prompt_of(tiny_batch)
    prompt = replace(prompt, placeholders=torch.zeros_like(prompt.placeholders), parallel=False)
    set_attention(model, attention)
    if not padded:
        prompt = replace(prompt, attention_mask=torch.ones_like(prompt.attention_mask), padded=False)
    attached(model, method)
    codes = AutoregressiveTokenHead(tiny_head.space).over(model).raw(prompt)
    state, steps = model.prefill(prompt), []
    for step in range(4):
        steps.append(state.hidden)
        state = model.advance(codes[:, step], state)
    for row in range(len(prompt)):
        ids = torch.cat([prompt.input_ids[row][prompt.attention_mask[row]], codes[row, :3]])[None]
        alone = whole(prompt, row, ids)
        for step, hidden in enumerate(steps):
            torch.testing.assert_close(hidden[row], model(alone)[0, ids.shape[1] - 4 + step], **CLOSE)


def whole(prompt, row: int, ids: Tensor):
    return replace(
        prompt,
        pixel_values=prompt.pixel_values[row : row + 1],
        state=prompt.state[row : row + 1],
        input_ids=ids,
        attention_mask=torch.ones_like(ids, dtype=torch.bool),
        placeholders=torch.zeros_like(ids, dtype=torch.bool),
        prompt_length=torch.tensor([ids.shape[1] - 3]),
        padded=False,
        index=None,
        actions=None,
        action_mask=None,
    )


@pytest.mark.parametrize("method", METHODS)
@torch.no_grad()
def test_both_kernels_agree(tiny_model, tiny_batch, method):
    outputs = []
    for attention in ("eager", "sdpa"):
        model = OpenVLA(tiny_model.config)
        model.load_state_dict(tiny_model.state_dict())
        set_attention(model.eval(), attention)
        attached(model, method)
        outputs.append(model(tiny_batch)[tiny_batch.attention_mask])
    torch.testing.assert_close(*outputs, **CLOSE)


@pytest.mark.parametrize("base", ["fp32", "bf16", "nf4"])
@pytest.mark.parametrize("method", METHODS)
def test_it_learns_and_nothing_else_does(load_base, tiny_batch, tiny_head, learn, method, base):
    model = load_base(base)
    frozen = {name: parameter.clone() for name, parameter in model.named_parameters()}
    attached(model, method, base=base)
    assert all(parameter.dtype == torch.float32 for parameter in learned(model).values())
    losses = learn(tiny_head.over(model), tiny_batch, learned(model).values(), rate=1e-2)
    assert losses[-1] < losses[0] - 0.2
    assert all(torch.equal(parameter, frozen[name]) for name, parameter in model.named_parameters() if name in frozen)


@pytest.mark.parametrize("method", METHODS)
def test_what_is_saved_is_what_is_loaded(load_base, tiny_batch, tmp_path, method):
    model, other = load_base("fp32").eval(), load_base("fp32").eval()
    adapter, again = attached(model, method), attached(other, method, seed=1)
    with torch.no_grad():
        assert not torch.equal(model(tiny_batch), other(tiny_batch))
        adapter.save(tmp_path / "adapter", model, base_hash=HASH)
        again.load(tmp_path / "adapter", other, base_hash=HASH)
        assert torch.equal(model(tiny_batch), other(tiny_batch))
    with pytest.raises(ValueError, match="was trained on a base with hash"):
        again.load(tmp_path / "adapter", other, base_hash="1" * 64)
    shorter = load_base("fp32")
    with pytest.raises(ValueError, match="the model has"):
        attached(shorter, method, count=COUNT - 1).load(tmp_path / "adapter", shorter, base_hash=HASH)


@pytest.mark.parametrize("method", METHODS)
def test_the_report_says_what_context_it_costs(load_base, method):
    report = METHODS[method].attach(load_base("fp32"))
    assert f"It takes context: {COUNT} more" in str(report)
    assert isinstance(METHODS[method], Adapter)


@pytest.mark.parametrize("method", METHODS)
def test_there_is_nothing_to_merge_or_to_mix(load_base, tmp_path, method):
    model = load_base("fp32")
    adapter = attached(model, method)
    adapter.save(tmp_path / "adapter", model, base_hash=HASH)
    with pytest.raises(ValueError, match="context and no change of weights"):
        adapter.changes(tmp_path / "adapter", base_hash=HASH)
    with pytest.raises(ValueError, match="Run base and adapter together"):
        AdapterBank(load_base("fp32"), base_hash=HASH).add("one", adapter, tmp_path / "adapter")


@pytest.mark.parametrize("method", METHODS)
def test_a_second_one_is_refused(load_base, method):
    model = load_base("fp32")
    attached(model, method)
    with pytest.raises(ValueError, match="already"):
        attached(model, method)


def test_another_kernel_has_no_room(tiny_model, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tiny_model.language_model.config, "_attn_implementation_internal", "flash_attention_2")
    with pytest.raises(ValueError, match="attention=flash_attention_2 has no room for a prefix"):
        attached(tiny_model, "prefix")


@pytest.mark.parametrize("wrong", [{"count": 0}, {"hidden": 0}])
def test_sizes_are_checked(wrong):
    with pytest.raises(ValueError, match="at least 1"):
        PTuning(**({"count": 4} | wrong))
