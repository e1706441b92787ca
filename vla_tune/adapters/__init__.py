"""Which parameters learn: all of them, or a low-rank change of frozen ones."""

from vla_tune.adapters.base import Adapter, AdapterReport, Begun
from vla_tune.adapters.bottleneck import Bottleneck
from vla_tune.adapters.dora import Dora
from vla_tune.adapters.full import Full
from vla_tune.adapters.lora import Lora, training_context
from vla_tune.adapters.p_tuning import PTuning
from vla_tune.adapters.pissa import Pissa
from vla_tune.adapters.prefix import PrefixTuning
from vla_tune.adapters.published import PublishedLora

__all__ = [
    "Adapter",
    "AdapterReport",
    "Begun",
    "Bottleneck",
    "Dora",
    "Full",
    "Lora",
    "PTuning",
    "Pissa",
    "PrefixTuning",
    "PublishedLora",
    "training_context",
]
