"""The OpenVLA architecture: vision towers -> projector -> Llama (arXiv 2406.09246, §3), with OpenVLA-OFT's additions.

Sequence: `[BOS] [patches of every view] [state] [rest of the prompt]`. Batches with placeholders are decoded in parallel
(arXiv 2502.19645, §4): their embeddings are zeroed, every position sees every other, and the state at position p - 1 predicts p.
"""

from typing import cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, PreTrainedModel

from vla_tune.data.collate import Batch
from vla_tune.models.base import Decoding
from vla_tune.models.cache import roomy_cache
from vla_tune.models.openvla.action_head import ActionHead
from vla_tune.models.openvla.config import OpenVLAConfig
from vla_tune.models.openvla.vision import FusedProjector, ProprioProjector, SingleProjector, VisionBackbone
from vla_tune.models.virtual_tokens import VirtualTokens


class OpenVLA(PreTrainedModel):
    """A vision-language-action model whose parameters bear the published names.

    One class for every size: the configuration says how large the towers and the language model are.
    """

    config_class = OpenVLAConfig
    main_input_name = "pixel_values"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    untrained: tuple[str, ...] = ()
    """Patterns of the modules that were added to the base: they learn in full under any adapter."""
    made_anew: tuple[str, ...] = ()
    """Parts that the base has for a robot of other dimensions, in words."""
    _no_split_modules = ["LlamaDecoderLayer"]  # noqa: RUF012 (transformers' convention)

    def __init__(self, config: OpenVLAConfig) -> None:
        super().__init__(config)
        width = config.text_config.hidden_size
        self.vision_backbone = VisionBackbone(config)
        projector = FusedProjector if len(self.vision_backbone.towers) == 2 else SingleProjector
        self.projector = projector(self.vision_backbone.width, width)
        self.language_model = AutoModelForCausalLM.from_config(config.text_config)
        if config.proprio_dimension:
            self.proprio_projector = ProprioProjector(config.proprio_dimension, width)
        if config.action_head_dimension:
            self.action_head = ActionHead(width, config.action_head_dimension)
        self.virtual_tokens: VirtualTokens | None = None  # an adapter puts them there
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The token embedding."""
        return self.language_model.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module:
        """The vocabulary head."""
        return self.language_model.lm_head

    @property
    def blocks(self) -> list[nn.Module]:
        """Every block of the language model and of the vision towers."""
        towers = [block for tower in self.vision_backbone.towers for block in cast(nn.Sequential, tower.blocks)]
        return [*self.language_model.model.layers, *towers]

    @property
    def pointwise(self) -> list[nn.Module]:
        """Norms and MLPs of the language model: what acting gains by compiling.

        A whole block writes into the cache of its own number, and would be compiled once for every layer.
        """
        parts = ("input_layernorm", "post_attention_layernorm", "mlp")
        return [layer.get_submodule(part) for layer in self.language_model.model.layers for part in parts]

    def forward(self, batch: Batch) -> Float[Tensor, "B L D"]:
        """Final hidden states at the positions of `batch.input_ids` (those of patches and state are left out)."""
        assert batch.pixel_values is not None
        context = self.context(batch.pixel_values, batch.state, self.language(batch))
        hidden = self.hidden_states(batch, context)
        return torch.cat([hidden[:, :1], hidden[:, 1 + context.shape[1] :]], dim=1)

    def language(self, batch: Batch) -> Float[Tensor, "B D"] | None:
        """What FiLM listens to: the mean embedding of all ids but actions and padding; None without FiLM.

        The original's mean takes padding in as well, where there is any; then a sample would depend on its company.
        """
        if not self.config.film_dimension:
            return None
        said = said_positions(batch)[..., None]
        embedded = self.get_input_embeddings()(batch.input_ids).masked_fill(~said, 0.0)
        return embedded.sum(dim=1) / said.sum(dim=1)

    def context(
        self, pixel_values: Float[Tensor, "B V C H W"], state: Float[Tensor, "B S"], language: Float[Tensor, "B D"] | None = None
    ) -> Float[Tensor, "B P D"]:
        """What goes behind BOS: the projected patches of every view, then the state token, then virtual tokens."""
        views = pixel_values.shape[1]
        pixels = pixel_values.flatten(0, 1).to(self.projector.fc1.weight.dtype)
        heard = None if language is None else language.repeat_interleave(views, dim=0)
        patches = self.projector(self.vision_backbone(pixels, heard)).unflatten(0, (-1, views)).flatten(1, 2)
        parts = [patches]
        if self.config.proprio_dimension:
            self._check_state(state)
            token = self.proprio_projector(state.to(self.proprio_projector.fc1.weight.dtype))
            parts.append(token[:, None].to(patches.dtype))
        if self.virtual_tokens is not None:
            parts.append(self.virtual_tokens(patches))
        return torch.cat(parts, dim=1)

    def _check_state(self, state: Float[Tensor, "B S"]) -> None:
        if state.shape[1] != self.config.proprio_dimension:
            raise ValueError(
                f"the model reads a state of {self.config.proprio_dimension} values, this robot has {state.shape[1]}: say "
                "+model.state_dimension=${dimension_of:${data.embodiment.state}} for a projector of its own."
            )

    def hidden_states(self, batch: Batch, context: Float[Tensor, "B P D"]) -> Float[Tensor, "B P_plus_L D"]:
        """Final hidden states of the whole sequence, patches included."""
        inputs, seen = self.sequence(batch, context)
        mask = self._mask(batch, seen, inputs.dtype)
        return self.language_model.model(inputs_embeds=inputs, attention_mask=mask, use_cache=False).last_hidden_state

    def _mask(self, batch: Batch, seen: Bool[Tensor, "B L"], dtype: torch.dtype) -> Bool[Tensor, "B L"] | Float[Tensor, "B 1 L L"]:
        """Which positions see which; where it has one row per sample, attention is causal.

        Raises:
            ValueError: the kernel knows nothing else.
        """
        if not batch.parallel and self.config.prompt_attention == "causal":
            return seen
        if self.language_model.config._attn_implementation == "flash_attention_2":
            raise ValueError(
                "attention=flash_attention_2 shows a position only what came before; this head needs more: choose sdpa."
            )
        if batch.parallel:
            return bidirectional_mask(seen, dtype)
        length = batch.prompt_length + seen.shape[1] - batch.input_ids.shape[1]
        return prefix_mask(seen, length, dtype)

    def sequence(
        self, batch: Batch, context: Float[Tensor, "B P D"]
    ) -> tuple[Float[Tensor, "B P_plus_L D"], Bool[Tensor, "B P_plus_L"]]:
        """Embeddings with the context behind BOS, and which positions are no padding."""
        embedded = self.get_input_embeddings()(batch.input_ids).masked_fill(batch.placeholders[..., None], 0.0)
        inputs = torch.cat([embedded[:, :1], context.to(embedded.dtype), embedded[:, 1:]], dim=1)
        seen = torch.cat(
            [batch.attention_mask[:, :1], batch.attention_mask.new_ones(context.shape[:2]), batch.attention_mask[:, 1:]], 1
        )
        return inputs, seen

    def vocabulary_logits(
        self, hidden: Float[Tensor, "M D"], rows: Int[Tensor, " R"] | None = None
    ) -> Float[Tensor, "M vocabulary"]:
        """Logits at chosen positions, in float32, over the whole vocabulary or over `rows` of it."""
        head = self.language_model.lm_head
        if rows is None:
            return head(hidden).float()
        if type(head) is not nn.Linear:  # an adapter or 4 bits: its rows cannot be taken apart
            return head(hidden).float()[:, rows]
        return F.linear(hidden, head.weight[rows]).float()

    def action_values(self, hidden: Float[Tensor, "B K D"]) -> Float[Tensor, "B T A"]:
        """Normalised actions from the states that predict K = T A placeholders.

        Raises:
            ValueError: the model has no action head.
        """
        if not self.config.action_head_dimension:
            raise ValueError("the model has no action head: train with head=regression, or use a checkpoint that has one.")
        return self.action_head(hidden)

    def prefill(self, batch: Batch) -> Decoding:
        """Read images, state and `batch.input_ids` once; shorter rows are moved right, so that all end together."""
        assert batch.pixel_values is not None
        inputs, seen = self.sequence(batch, self.context(batch.pixel_values, batch.state, self.language(batch)))
        more = {"past_key_values": roomy_cache(self.config.text_config.num_hidden_layers), "use_cache": True}
        if not batch.padded and self.config.prompt_attention == "causal":  # the kernel's own causal mask is faster
            output = self.language_model.model(inputs_embeds=inputs, **more)
            return Decoding(hidden=output.last_hidden_state[:, -1], cache=output.past_key_values, seen=None)
        inputs, seen = align_right(inputs, seen)
        positions = (seen.cumsum(dim=1) - 1).clamp(min=0)
        mask = seen if self.config.prompt_attention == "causal" else bidirectional_mask(seen, inputs.dtype)
        output = self.language_model.model(inputs_embeds=inputs, attention_mask=mask, position_ids=positions, **more)
        return Decoding(hidden=output.last_hidden_state[:, -1], cache=output.past_key_values, seen=seen)

    def advance(self, ids: Int[Tensor, " B"], decoding: Decoding) -> Decoding:
        """Read one more id per row."""
        more, seen = {"past_key_values": decoding.cache, "use_cache": True}, decoding.seen
        if seen is not None:
            seen = torch.cat([seen, seen.new_ones(len(ids), 1)], dim=1)
            more |= {"attention_mask": seen, "position_ids": seen.sum(dim=1, keepdim=True) - 1}
        output = self.language_model.model(input_ids=ids[:, None], **more)
        return Decoding(hidden=output.last_hidden_state[:, -1], cache=output.past_key_values, seen=seen)


def said_positions(batch: Batch) -> Bool[Tensor, "B L"]:
    """All positions but padding and actions, which are placeholders or lie behind the prompt."""
    words = batch.attention_mask & ~batch.placeholders
    if batch.parallel:
        return words
    return words & (torch.arange(words.shape[1], device=words.device) < batch.prompt_length[:, None])


def align_right(inputs: Float[Tensor, "B L D"], seen: Bool[Tensor, "B L"]) -> tuple[Float[Tensor, "B L D"], Bool[Tensor, "B L"]]:
    """Rows that were padded on the right, padded on the left."""
    length = seen.shape[1]
    source = (torch.arange(length, device=seen.device) + seen.sum(dim=1, keepdim=True)) % length
    return inputs.gather(1, source[..., None].expand_as(inputs)), seen.gather(1, source)


def prefix_mask(seen: Bool[Tensor, "B L"], length: Int[Tensor, " B"], dtype: torch.dtype) -> Float[Tensor, "B 1 L L"]:
    """An additive attention mask under which a position sees the first `length`, and those before it, unless they are padding."""
    places = torch.arange(seen.shape[1], device=seen.device)
    earlier = places[None, :, None] >= places[None, None]
    visible = (earlier | (places < length[:, None])[:, None]) & seen[:, None]
    return torch.zeros(visible.shape, dtype=dtype, device=seen.device).masked_fill(~visible, torch.finfo(dtype).min)[:, None]


def bidirectional_mask(seen: Bool[Tensor, "B L"], dtype: torch.dtype) -> Float[Tensor, "B 1 L L"]:
    """An additive attention mask under which every position sees every position that is not padding."""
    batch, length = seen.shape
    hidden = torch.zeros(batch, 1, 1, length, dtype=dtype, device=seen.device)
    return hidden.masked_fill(~seen[:, None, None], torch.finfo(dtype).min).expand(batch, 1, length, length)
