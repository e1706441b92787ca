"""Chunks as training data, and the tokenizer of the original FAST code."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vla_tune.tokens import FastTokenizer, FastTokens

GOLDEN = Path(__file__).parents[1] / "golden" / "fast"


@dataclass(frozen=True, eq=False)
class Chunks:
    """Normalised chunks in memory; all of them counts."""

    chunks: np.ndarray

    @property
    def counted(self) -> np.ndarray:
        return np.ones(self.chunks.shape, dtype=bool)


@pytest.fixture(scope="session")
def golden() -> dict[str, Any]:
    """What the original code (its processing_action_tokenizer.py, tokenizers 0.19.1) was told and what it said."""
    return json.loads((GOLDEN / "meta.json").read_text())


@pytest.fixture(scope="session")
def golden_arrays() -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "s10_v1024.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="session")
def golden_training() -> Chunks:
    """The chunks that the original was fitted to, rounded to float32."""
    with np.load(GOLDEN / "train_chunks.npz") as arrays:
        return Chunks(arrays["train"])


@pytest.fixture(scope="session")
def published(golden: dict[str, Any]) -> FastTokenizer:
    """The original's tokenizer, from its own file."""
    record = FastTokens(
        kind="fast",
        vocabulary_size=32000,
        scale=float(golden["scale"]),
        min_token=golden["min_token"],
        horizon=golden["time_horizon"],
        action_dimension=golden["action_dim"],
        bpe=(GOLDEN / "tokenizer.json").read_text(),
    )
    return FastTokenizer.from_record(record)
