"""The probes, on a run or on what was made of it."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
from omegaconf import DictConfig
from rich.console import Console

from vla_tune.check.agreement import Recorded
from vla_tune.check.finding import CheckFailedError, Finding
from vla_tune.check.probes import Case, examine
from vla_tune.run.acting import acting
from vla_tune.run.folder import load_config
from vla_tune.run.objects import build, device_of, load_base, load_policy
from vla_tune.run.recorded import observation_in, recorded_frames


def check(cfg: DictConfig) -> list[Finding]:
    """What `scripts/check.py` does: examine `cfg.policy`, or the run itself, against `cfg.run`; print and write what was found.

    Raises:
        CheckFailedError: a probe failed.
    """
    run, device = Path(cfg.run), device_of(cfg)
    data = build(load_config(run).data)
    frames = recorded_frames(data, count=cfg.frames)
    reference = load_policy(run, rows=1, device=device).policy
    with acting(cfg) as (policy, contract):
        case = Case(
            policy=policy,
            contract=contract,
            recorded=Recorded(
                [observation_in(frame, contract.embodiment) for frame in frames],
                np.stack([frame["actions"] for frame in frames]),
                np.stack([frame["action_mask"].all(axis=-1) for frame in frames]),
            ),
            statistics=data.statistics,
            reference=reference,
            base=load_base(run, rows=1, device=device),
        )
        findings = examine(case)
    Console().print("\n".join(map(str, findings)), highlight=False, soft_wrap=True, markup=False)
    if cfg.json:
        Path(cfg.json).write_text(json.dumps([asdict(finding) for finding in findings], indent=1) + "\n")
    if failed := [finding.probe for finding in findings if not finding.passed]:
        raise CheckFailedError(f"{len(failed)} of {len(findings)} probes failed: {', '.join(failed)}.")
    return findings
