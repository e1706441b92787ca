"""Learned embeddings in a model's input, where no word stands."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from vla_tune.data.collate import Batch


class VirtualTokens(nn.Module):
    """`count` embeddings, made of learned codes by a small network, float32 (P-tuning, arXiv 2103.10385, §3.2, with an MLP)."""

    def __init__(self, count: int, width: int, hidden: int, *, device: torch.device) -> None:
        super().__init__()
        self.codes = nn.Embedding(count, hidden, device=device)
        self.inner, self.outer = nn.Linear(hidden, hidden, device=device), nn.Linear(hidden, width, device=device)

    @property
    def count(self) -> int:
        """How many."""
        return self.codes.num_embeddings

    def forward(self, like: Float[Tensor, "B L D"]) -> Float[Tensor, "B n D"]:
        """The same for every row, in the dtype of `like`."""
        with torch.autocast(like.device.type, enabled=False):
            made = self.outer(F.gelu(self.inner(self.codes.weight)))
        return made.to(like.dtype).expand(len(like), -1, -1)


def lengthened(batch: Batch, count: int) -> Batch:
    """`count` places in front of every row.

    They carry the row's last id of the prompt, which is a word for every class: an id of an image would ask for one more patch.
    """
    last = (batch.prompt_length - 1).clamp(min=0)[:, None]

    def front(values: Tensor, filling: Tensor) -> Tensor:
        return torch.cat([filling.expand(-1, count).to(values.dtype), values], dim=1)

    return replace(
        batch,
        input_ids=front(batch.input_ids, batch.input_ids.gather(1, last)),
        attention_mask=front(batch.attention_mask, torch.ones_like(last)),
        placeholders=front(batch.placeholders, torch.zeros_like(last)),
        labels=None,
        prompt_length=batch.prompt_length + count,
        token_inputs={name: front(value, value.gather(1, last)) for name, value in batch.token_inputs.items()},
    )


@contextmanager
def in_front(embedding: nn.Module, tokens: VirtualTokens, places: Tensor) -> Iterator[None]:
    """Inside, what `embedding` gives at `places` [B, n] of its rows is replaced by `tokens`."""

    def put_in(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output.scatter(1, places[..., None].expand(-1, -1, output.shape[-1]), tokens(output))

    handle = embedding.register_forward_hook(put_in)
    try:
        yield
    finally:
        handle.remove()
