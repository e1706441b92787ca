import pytest
import torch

from vla_tune.data import build_pipeline
from vla_tune.models.openvla.inputs import OpenVLAInputs
from vla_tune.policy import LocalPolicy
from vla_tune.schema import Contract


@pytest.fixture
def policy(tiny_model, tiny_head, tiny_tokenizer, tiny_contract: Contract) -> LocalPolicy:
    with torch.no_grad():  # freshly initialised, it would say the same whatever it sees
        for weight in tiny_model.parameters():
            weight.mul_(5.0 if weight.ndim > 1 else 1.0)
    pipeline = build_pipeline(tiny_contract, OpenVLAInputs.of(tiny_contract, tiny_tokenizer))
    return LocalPolicy(tiny_head.over(tiny_model), pipeline, tiny_contract, pad_id=512, rows=4)
