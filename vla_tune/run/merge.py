"""A finished run -> one merged checkpoint, if it acts as the live policy does."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from vla_tune.check.kept import KEPT_FILE
from vla_tune.export import Report, merge
from vla_tune.models.base import Checkpoint
from vla_tune.models.four_bits import FOUR_BITS
from vla_tune.printing import say
from vla_tune.run.chosen import chosen_run, step_in
from vla_tune.run.folder import ADAPTER_FOLDER
from vla_tune.run.objects import build
from vla_tune.run.proof import check_contract_of
from vla_tune.run.stored import adapter_of, checkpoint_of
from vla_tune.schema import Contract, write_whole


def merge_run(cfg: DictConfig) -> Report:
    """What `scripts/merge.py` does: merge `cfg.run` into `cfg.to`, print and write what the gate found.

    Raises:
        ParityError: the merged policy acts differently; nothing is written.
    """
    run, destination = chosen_run(cfg, Path(cfg.run)), Path(cfg.to)
    contract = Contract.load(run)
    check_contract_of(run, contract)
    base = base_of(checkpoint_of(run), cfg.base)
    report = merge(
        destination,
        base=base,
        adapter=adapter_of(run),
        adapter_folder=run / ADAPTER_FOLDER,
        contract=contract,
        check=build(cfg.gate).prepare(run),
        dtype=dtype_of(cfg.dtype, base),
        rank=cfg.rank,
        beside=[path for path in [run / KEPT_FILE] if path.is_file()],
    )
    say(f"{report}\nWritten to {destination}")
    if cfg.json:
        record = asdict(report) | {"passed": report.passed, "step": step_in(run)}  # pyright: ignore[reportArgumentType]
        write_whole(Path(cfg.json), json.dumps(record, indent=1) + "\n")
    return report


def base_of(checkpoint: Any, choice: str) -> Checkpoint:
    """Whose weights are changed; the content, and so its hash, is the same."""
    if choice not in ("trained", "original"):
        raise ValueError(f"base={choice!r}: choose trained, what training multiplied with, or original, the weights before 4 bits.")
    return replace(checkpoint, base="bf16") if choice == "original" and checkpoint.base in FOUR_BITS else checkpoint


def dtype_of(name: str, base: Checkpoint) -> torch.dtype:
    """The dtype of merged weights; `trained` is that of the weights in training, and bf16 of those in 4 bits.

    Raises:
        ValueError: they cannot be merged into this one.
    """
    choices = {"trained": torch.float32 if base.base == "fp32" else torch.bfloat16, "bf16": torch.bfloat16, "fp32": torch.float32}
    if name not in choices:
        raise ValueError(
            f"dtype={name!r}: merged weights are written as {' or '.join(choices)}; 4 bits would round the update away."
        )
    return choices[name]
