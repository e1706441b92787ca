"""Backbones: pixels, state and token ids -> hidden states."""

import logging

# Before its import: bitsandbytes warns that it cannot fetch an optional kernel, which only the path that `nf4` switches off uses.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
