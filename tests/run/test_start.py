"""A new run begins where another over the same base ended."""

from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate

from vla_tune.models.openvla import OpenVLACheckpoint
from vla_tune.run.fine_tune import start


@pytest.mark.parametrize("name", ["lora_r2", "houlsby_64", "dora_r16"])
def test_whatever_learned_goes_on(run_of, base: Path, configuration, name: str):
    run = run_of("one", adapter=name, seed=1)
    adapter = instantiate(configuration("train", f"adapter={name}").adapter)
    checkpoint = OpenVLACheckpoint(str(base), base=adapter.base)
    model, expected = checkpoint.load(device="cpu"), checkpoint.load(device="cpu")
    for one in (model, expected):
        adapter.attach(one)
    before = {key: weight.detach().clone() for key, weight in model.named_parameters()}
    start(adapter, model, None, base_hash=checkpoint.content_hash())
    assert all(torch.equal(weight, before[key]) for key, weight in model.named_parameters())
    start(adapter, model, str(run), base_hash=checkpoint.content_hash())
    adapter.load(run / "adapter", expected, base_hash=checkpoint.content_hash())
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), expected.parameters(), strict=True))
    assert any(not torch.equal(weight, before[key]) for key, weight in model.named_parameters())
    with pytest.raises(ValueError, match="hash"):
        start(adapter, model, str(run), base_hash="0" * 64)
    with pytest.raises(FileNotFoundError, match="is not finished"):
        start(adapter, model, str(base), base_hash=checkpoint.content_hash())


def test_an_adapter_of_ours_goes_on_as_a_published_one(run_of, base: Path, configuration):
    run = run_of("one", adapter="lora_r2", seed=1)
    adapter = instantiate(configuration("train", "adapter=published", f"adapter.folder={run}/adapter").adapter)
    checkpoint = OpenVLACheckpoint(str(base), base=adapter.base)
    model, expected = checkpoint.load(device="cpu"), checkpoint.load(device="cpu")
    adapter.attach(model)
    start(adapter, model, None, base_hash=checkpoint.content_hash())
    first = instantiate(configuration("train", "adapter=lora_r2").adapter)
    first.attach(expected)
    first.load(run / "adapter", expected, base_hash=checkpoint.content_hash())
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), expected.parameters(), strict=True))
