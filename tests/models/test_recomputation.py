import pytest
import torch
from torch import nn

from vla_tune.adapters import Lora
from vla_tune.models.recomputation import recompute_activations


def learn(model: nn.Module, batch) -> tuple[int, dict[str, torch.Tensor]]:
    """Bytes kept for the backward pass, and the gradients."""
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    model.zero_grad()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(batch).square().mean()
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    return sum(kept.values()), gradients


def test_gradients_are_the_same_and_less_is_kept(tiny_model, tiny_batch):
    torch.manual_seed(0)
    Lora(rank=4, alpha=8, targets=["q_proj", "down_proj"], base="fp32", dropout=0.1).attach(tiny_model)
    tiny_model.train()
    torch.manual_seed(1)
    kept, expected = learn(tiny_model, tiny_batch)
    assert recompute_activations(tiny_model) == 4
    torch.manual_seed(1)  # the same dropout
    less, gradients = learn(tiny_model, tiny_batch)
    assert less < kept / 2
    assert gradients.keys() == expected.keys()
    assert all(torch.equal(gradients[name], expected[name]) for name in expected)


def test_a_model_without_blocks_is_refused():
    with pytest.raises(ValueError, match="Linear has no block that can be run again"):
        recompute_activations(nn.Linear(2, 2))
