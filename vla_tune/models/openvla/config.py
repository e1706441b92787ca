"""The published OpenVLA configuration, with the fields that let one class be 7B or 2.5M parameters."""

from typing import Any

from transformers import CONFIG_MAPPING, PretrainedConfig

PROMPT_ATTENTIONS = ("causal", "bidirectional")


class OpenVLAConfig(PretrainedConfig):
    """Field names are those of the published `config.json`; `timm_kwargs`, `prompt_attention` and those of dimensions are ours.

    Args:
        timm_model_ids: one timm model for each vision tower (two towers are fused on the channel axis).
        image_sizes: the square side in pixels that each tower reads.
        timm_override_act_layers: per tower, the activation instead of timm's own, or None.
        timm_kwargs: per tower, what overrides timm's architecture; empty for the published sizes.
        text_config: the Llama configuration.
        pad_to_multiple_of: rows of the embedding beyond the tokenizer's vocabulary (the first of them is padding).
        n_action_bins: how many ids at the end of the vocabulary are action codes.
        proprio_dimension: S; 0 builds no proprioception projector (OpenVLA-OFT, arXiv 2502.19645, §4).
        action_head_dimension: A; 0 builds no regression head (there).
        film_dimension: width of the language that modulates the vision towers; 0 builds no FiLM (there).
        prompt_attention: how images and prompt see each other where codes follow one after the other: `causal`, as published, or
            `bidirectional` (prefix attention, PaliGemma, arXiv 2407.07726, §3.1), for a model that learned in parallel decoding.
        norm_stats: statistics per dataset, as published.

    Raises:
        ValueError: `prompt_attention` is neither.
    """

    model_type = "openvla"

    def __init__(
        self,
        *,
        timm_model_ids: list[str] | None = None,
        image_sizes: list[int] | None = None,
        timm_override_act_layers: list[str | None] | None = None,
        timm_kwargs: list[dict[str, Any]] | None = None,
        text_config: dict[str, Any] | None = None,
        pad_to_multiple_of: int = 64,
        n_action_bins: int = 256,
        proprio_dimension: int = 0,
        action_head_dimension: int = 0,
        film_dimension: int = 0,
        prompt_attention: str = "causal",
        norm_stats: dict[str, Any] | None = None,
        **published: Any,
    ) -> None:
        self.timm_model_ids = timm_model_ids or []
        self.image_sizes = image_sizes or []
        self.timm_override_act_layers = timm_override_act_layers or [None for _ in self.timm_model_ids]
        self.timm_kwargs = timm_kwargs or [{} for _ in self.timm_model_ids]
        self.text_config = CONFIG_MAPPING["llama"](**(text_config or {}))
        self.pad_to_multiple_of = pad_to_multiple_of
        self.n_action_bins = n_action_bins
        self.proprio_dimension = proprio_dimension
        self.action_head_dimension = action_head_dimension
        self.film_dimension = film_dimension
        if prompt_attention not in PROMPT_ATTENTIONS:
            raise ValueError(f"prompt_attention={prompt_attention!r}: choose one of {', '.join(PROMPT_ATTENTIONS)}.")
        self.prompt_attention = prompt_attention
        self.norm_stats = norm_stats
        super().__init__(**published)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form; the text configuration nests."""
        return super().to_dict() | {"text_config": self.text_config.to_dict()}

    @property
    def vocabulary_size(self) -> int:
        """V: ids the tokenizer knows; action codes are its last `n_action_bins`, padding is id V."""
        return self.text_config.vocab_size - self.pad_to_multiple_of
