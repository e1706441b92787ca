"""Models that are blind or deaf are refused; those that shipped or are random are not."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from vla_tune.data import build_pipeline
from vla_tune.data.collate import Batch
from vla_tune.models.forward import Forward
from vla_tune.models.hf import HFCheckpoint
from vla_tune.models.liveness import check_liveness, probes
from vla_tune.models.openvla.inputs import OpenVLAInputs
from vla_tune.schema import Contract


class Blind(nn.Module):
    """Sees the same images whatever there is."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.passes = 0

    def forward(self, batch: Batch) -> torch.Tensor:
        self.passes += 1
        return self.model(replace(batch, **self.planted(batch)))

    def planted(self, batch: Batch) -> dict[str, object]:
        still = {name: value * 0 + 0.5 if value.is_floating_point() else value for name, value in batch.vision_inputs.items()}
        return {"vision_inputs": still, "pixel_values": None if batch.pixel_values is None else batch.pixel_values * 0}

    def vocabulary_logits(self, hidden, rows=None):
        return self.model.vocabulary_logits(hidden, rows)

    def prefill(self, batch: Batch):
        raise NotImplementedError

    def advance(self, ids, decoding):
        raise NotImplementedError


class Deaf(Blind):
    """Reads the same prompt whatever was said."""

    first: Batch | None = None

    def planted(self, batch: Batch) -> dict[str, object]:
        self.first = self.first or batch
        return {"input_ids": self.first.input_ids}


@pytest.fixture
def check(checkpoint: HFCheckpoint, contract_for: Callable[..., Contract]) -> Callable[[nn.Module], None]:
    contract = contract_for(checkpoint)
    interface = checkpoint.interface(contract)
    pipeline = build_pipeline(contract, interface)
    return lambda network: check_liveness(Forward(interface.over(network), interface.pad_id), pipeline, contract.embodiment)


def test_blind_and_deaf_models_are_told_from_live_ones(checkpoint: HFCheckpoint, check):
    model = checkpoint.load(device="cpu")
    check(model)
    blind = Blind(model)
    with pytest.raises(ValueError, match=r"is blind: another image.*uv sync"):
        check(blind)
    assert blind.passes == 3
    with pytest.raises(ValueError, match="is deaf: another instruction"):
        check(Deaf(model))


def test_both_instructions_have_as_many_tokens(checkpoint: HFCheckpoint, contract_for):
    contract = contract_for(checkpoint)
    plain, image, instruction = probes(build_pipeline(contract, checkpoint.interface(contract)), contract.embodiment)
    assert plain["input_ids"].tolist() == image["input_ids"].tolist()
    assert len(plain["input_ids"]) == len(instruction["input_ids"])
    assert plain["input_ids"].tolist() != instruction["input_ids"].tolist()


@pytest.mark.parametrize("decoding", ["parallel", "autoregressive"])
def test_openvla_is_probed_alike(tiny_model, tiny_tokenizer, tiny_contract, decoding: str):
    contract = replace(tiny_contract, model=tiny_contract.model | {"decoding": decoding})
    interface = OpenVLAInputs.of(contract, tiny_tokenizer)
    pipeline = build_pipeline(contract, interface)

    def check(network: nn.Module) -> None:
        check_liveness(Forward(interface.over(network), 512), pipeline, contract.embodiment)

    check(tiny_model.eval())
    with pytest.raises(ValueError, match="is blind"):
        check(Blind(tiny_model))
    with pytest.raises(ValueError, match="is deaf"):
        check(Deaf(tiny_model))
