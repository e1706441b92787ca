"""DoRA: LoRA for the direction of each output's weights, and a magnitude of its own."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from peft import LoraConfig

from vla_tune.adapters.lora import Lora


@dataclass(frozen=True, kw_only=True)
class Dora(Lora):
    """m (W + s B A) / |W + s B A|, norms over each output; m, which begins as |W|, learns beside A and B.

    The norm is taken as a constant in the backward pass (DoRA, arXiv 2402.09353, §4.3). At initialisation the outputs are those
    of the base as far as the division rounds.
    """

    def _peft_config(self, names: Sequence[str]) -> LoraConfig:
        return replace(super()._peft_config(names), use_dora=True)
