"""Action tokenizers before a run: fitted, written and examined."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
from omegaconf import DictConfig

from vla_tune.data.sources import Data
from vla_tune.data.transforms import Scale
from vla_tune.models.base import Checkpoint
from vla_tune.models.capabilities import HasVocabulary
from vla_tune.printing import say
from vla_tune.run.objects import build
from vla_tune.schema import Embodiment, Statistics
from vla_tune.tokens import ActionTokenizer, FastTokenizer, write_fast
from vla_tune.tokens.diagnostics import Dimension, Examined, diagnose
from vla_tune.tokens.findings import Findings
from vla_tune.tokens.table import print_findings

_ANY_VOCABULARY = 2**31 - 1
"""A file is for any vocabulary; the run that reads it says which."""


def examine_tokens(cfg: DictConfig) -> Findings:
    """What `scripts/tokens.py` does: print what `cfg.tokens` does to the actions of `cfg.data`, and write it to `cfg.json`.

    Raises:
        ValueError: there is no tokenizer, the model's vocabulary has no room for its codes, or no chunk can be encoded.
    """
    data: Data = build(cfg.data)
    checkpoint: Checkpoint = build(cfg.model)
    if not isinstance(checkpoint, HasVocabulary):
        raise ValueError(f"{type(checkpoint).__name__} speaks no codes: action tokenizers are for models of language.")
    tokenizer = _maker(cfg)(vocabulary_size=checkpoint.vocabulary_size, actions=data.actions)
    found = findings_on(data, tokenizer, chunks=cfg.chunks)
    print_findings(found, title=f"{cfg.tokens._target_.rpartition('.')[2]} on {data.statistics.dataset}")
    if cfg.json:
        path = Path(cfg.json)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(found) | {"warnings": found.warnings}, indent=1) + "\n")
    return found


def fit_tokenizer(cfg: DictConfig) -> Findings:
    """What `scripts/tokenizer.py` does: fit `cfg.tokens` to the training chunks of `cfg.data`, print what it costs, write `cfg.to`.

    Raises:
        ValueError: the tokenizer is none that is fitted and written.
    """
    data: Data = build(cfg.data)
    tokenizer = _maker(cfg)(vocabulary_size=_ANY_VOCABULARY, actions=data.actions)
    if not isinstance(tokenizer, FastTokenizer):
        raise ValueError(f"a {type(tokenizer).__name__} needs no file: choose tokens=fast_1024, fast_256 or fast_1024_original.")
    found = findings_on(data, tokenizer, chunks=cfg.chunks)
    report = {"dataset": data.statistics.dataset, "warnings": found.warnings} | asdict(found)
    write_fast(Path(cfg.to), tokenizer, report)
    print_findings(found, title=f"FAST with {found.num_codes} codes on {data.statistics.dataset}")
    say(
        f"{found.mean_codes:.1f} codes per chunk against {found.values} bins. Written to {cfg.to}: train with tokens=fast_file "
        f"tokens.file={cfg.to}",
    )
    return found


def _maker(cfg: DictConfig) -> Callable[..., ActionTokenizer]:
    if not cfg.tokens:
        raise ValueError("tokens=none: there is no tokenizer to look at; choose one, as tokens=uniform_256 or tokens=fast_1024.")
    return build(cfg.tokens)


def findings_on(data: Data, tokenizer: ActionTokenizer, *, chunks: int) -> Findings:
    """What a tokenizer does to at most `chunks` training chunks, evenly spread."""
    actions = data.actions
    examined = Examined(chunks=actions.chunks, unclipped=actions.unclipped, counted=actions.counted).spread(chunks)
    return diagnose(tokenizer, examined, dimensions_of(data.embodiment, data.statistics))


def dimensions_of(body: Embodiment, statistics: Statistics) -> tuple[Dimension, ...]:
    """The action dimensions, with their size in robot units and the gripper's two ends as a tokenizer is given them."""
    scale, width = Scale(statistics.action), body.action_dimension
    sizes = scale.robot_units(np.ones(width)) - scale.robot_units(np.zeros(width))
    groups = [(group, number) for group in body.action for number in range(group.dimension)]
    dimensions = []
    for column, (group, number) in enumerate(groups):
        ends = None
        if group.gripper is not None:
            engaged, released = (
                float(scale.forward(np.full(width, end))[column]) for end in (group.gripper.engaged, group.gripper.released)
            )
            ends = engaged, released
        name = group.name if group.dimension == 1 else f"{group.name}.{number}"
        dimensions.append(Dimension(name=name, unit=group.unit, size=float(sizes[column]), gripper=ends))
    return tuple(dimensions)
