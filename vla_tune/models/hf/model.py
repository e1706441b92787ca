"""A model of transformers behind the protocol of a vision-language-action model."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from vla_tune.data.collate import Batch
from vla_tune.models.base import Decoding
from vla_tune.models.hf.rows import ActionRows, vocabulary_modules
from vla_tune.models.virtual_tokens import VirtualTokens, in_front, lengthened


@dataclass(frozen=True)
class Past:
    """What an autoregressive model of transformers keeps."""

    cache: Any
    """Keys and values."""
    positions: Int[Tensor, "*axes B 1"]
    """Of the last id read; with several axes where the class has some (Qwen's M-RoPE)."""


class HFVLA(nn.Module):
    """An image-text-to-text model of transformers, its parts under names that are the same for every class.

    Children: `language_model`, the vision parts under their own names, `lm_head` and `action_rows`, which stand in for the rows
    of the action codes. Attention is the model's own, so codes are decoded one after the other.
    """

    untrained: tuple[str, ...] = ("action_rows",)
    """Children that no pretraining has seen: an adapter that leaves them frozen has nothing to say actions with."""
    reads_back: str = "transformers reads back from the device how many image tokens there are, and where"
    """Why it is no CUDA graph (`models.graphs`)."""

    def __init__(self, network: PreTrainedModel, *, first_code: int, num_codes: int) -> None:
        super().__init__()
        core = cast(PreTrainedModel, network.base_model)
        embedding = network.get_input_embeddings()
        for owner in (core, network):
            for name, child in owner.named_children():
                if child is not core:
                    speaks = any(module is embedding for module in child.modules())
                    self.add_module("language_model" if speaks else name, child)
        for name, parameter in core.named_parameters(recurse=False):
            self.register_parameter(name, parameter)
        self.action_rows = ActionRows(network, first=first_code, count=num_codes)
        self.virtual_tokens: VirtualTokens | None = None  # an adapter puts them there
        self._whole = (network, core)  # in a tuple: a child would list every parameter under a second name

    @property
    def network(self) -> PreTrainedModel:
        """The model of transformers, made of the same modules."""
        return self._whole[0]

    def get_input_embeddings(self) -> nn.Module:
        """The token embedding."""
        return self.network.get_input_embeddings()

    def forward(self, batch: Batch) -> Float[Tensor, "B L D"]:
        """Final hidden states at the positions of `batch.input_ids` (those of virtual tokens are left out)."""
        batch, more = self._lengthened(batch)
        inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask.long(), **batch.token_inputs}
        with self._embedded(torch.arange(more, device=batch.input_ids.device).expand(len(batch), -1)):
            hidden = self._whole[1](**inputs, **self._vision(batch), use_cache=False).last_hidden_state
        return hidden[:, more:]

    def vocabulary_logits(
        self, hidden: Float[Tensor, "M D"], rows: Int[Tensor, " R"] | None = None
    ) -> Float[Tensor, "M vocabulary"]:
        """Logits at chosen positions, in float32, over the whole vocabulary or over `rows` of it."""
        head = cast(nn.Linear, self.lm_head)
        if rows is None or type(head) is not nn.Linear or head.bias is not None:  # else its rows can be taken apart
            logits = self.action_rows.put_in(head(hidden), hidden)
            return self._capped(logits if rows is None else logits[:, rows])
        return self._capped(F.linear(hidden, self.action_rows.weights(head.weight, rows)))

    def prefill(self, batch: Batch) -> Decoding:
        """Read images and `batch.input_ids` once; shorter rows are moved right, so that all end together."""
        network, core = self._whole
        batch, more = self._lengthened(batch)
        order = to_the_right(batch.attention_mask)
        seen = batch.attention_mask.gather(1, order)
        ids = batch.input_ids.gather(1, order)
        tokens = {name: value.gather(1, order) for name, value in batch.token_inputs.items()}
        given = {"attention_mask": seen.long(), **tokens, **self._vision(batch)}
        # As `generate` does: classes count positions in their own ways (Qwen on three axes, PaliGemma from one).
        positions = network._prepare_position_ids_for_generation(ids, dict(given))  # pyright: ignore[reportCallIssue]
        inputs = network.prepare_inputs_for_generation(  # pyright: ignore[reportCallIssue]
            ids, **given, position_ids=positions, is_first_iteration=True, use_cache=True
        )
        first = (~seen).sum(dim=1, keepdim=True)
        with self._embedded(first + torch.arange(more, device=ids.device)):
            output = core(**inputs)
        past = Past(output.past_key_values, inputs["position_ids"][..., -1:])
        return Decoding(hidden=output.last_hidden_state[:, -1], cache=past, seen=seen)

    def advance(self, ids: Int[Tensor, " B"], decoding: Decoding) -> Decoding:
        """Read one more id per row."""
        assert decoding.seen is not None
        past = Past(decoding.cache.cache, decoding.cache.positions + 1)
        seen = torch.cat([decoding.seen, decoding.seen.new_ones(len(ids), 1)], dim=1)
        inputs = {"input_ids": ids[:, None], "attention_mask": seen.long(), "position_ids": past.positions}
        output = self._whole[1](**inputs, past_key_values=past.cache, use_cache=True)
        return Decoding(hidden=output.last_hidden_state[:, -1], cache=past, seen=seen)

    def _lengthened(self, batch: Batch) -> tuple[Batch, int]:
        """The batch with places for virtual tokens, and how many there are."""
        count = 0 if self.virtual_tokens is None else self.virtual_tokens.count
        return (lengthened(batch, count) if count else batch), count

    def _embedded(self, places: Int[Tensor, "B n"]) -> AbstractContextManager[None]:
        """Inside, the virtual tokens stand at `places`."""
        if self.virtual_tokens is None:
            return nullcontext()
        return in_front(self.get_input_embeddings(), self.virtual_tokens, places)

    def _vision(self, batch: Batch) -> dict[str, Tensor]:
        dtype = vocabulary_modules(self.network)[0].weight.dtype
        values = batch.vision_inputs.items()
        return {name: value.to(dtype) if value.is_floating_point() else value for name, value in values}

    def _capped(self, logits: Float[Tensor, "M R"]) -> Float[Tensor, "M R"]:
        cap = getattr(self.network.config.get_text_config(), "final_logit_softcapping", None)
        return logits.float() if cap is None else cap * torch.tanh(logits.float() / cap)


def to_the_right(seen: Bool[Tensor, "B L"]) -> Int[Tensor, "B L"]:
    """Where each position comes from when rows that were padded on the right are padded on the left."""
    length = seen.shape[1]
    return (torch.arange(length, device=seen.device) + seen.sum(dim=1, keepdim=True)) % length
