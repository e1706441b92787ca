"""The probes, on a run or on what was made of it."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import gymnasium
import numpy as np
from omegaconf import DictConfig

from vla_tune.check.agreement import Agreement, Recorded, agreement
from vla_tune.check.elsewhere import examine_elsewhere
from vla_tune.check.finding import CheckFailedError, Finding
from vla_tune.check.kept import KEPT_FRAMES, Kept, keeps_its_actions
from vla_tune.check.probes import Case, examine
from vla_tune.check.replay import replay
from vla_tune.data.recorded import observation_in
from vla_tune.data.sources import Data
from vla_tune.policy import LocalPolicy, Policy
from vla_tune.printing import say
from vla_tune.run.acting import acting, is_address
from vla_tune.run.chosen import chosen_run
from vla_tune.run.folder import task_of
from vla_tune.run.following import in_simulation, not_replayed
from vla_tune.run.objects import build, device_of, load_base, load_policy
from vla_tune.run.published import named_folder, recorded_data, stated_contract
from vla_tune.run.recorded import recorded_frames
from vla_tune.run.stored import data_of, environment_of
from vla_tune.run.tasks import only_task
from vla_tune.schema import Contract, write_whole

CHECK_FILE = "check.json"


def check(cfg: DictConfig) -> list[Finding]:
    """What `scripts/check.py` does: examine `cfg.policy`, or the run itself; print and write what was found.

    With `cfg.run` it is held against that run and its data; an exported folder alone, against the frames that lie in it.

    Raises:
        CheckFailedError: a probe failed.
        ValueError: neither is named, or an address without a run.
        FileNotFoundError: a folder is missing, or holds no frames.
    """
    if cfg.run is None and cfg.policy is None:
        raise ValueError("neither a run nor a policy is named: run=runs/..., policy=<exported folder>, or both.")
    run = None if cfg.run is None else chosen_run(cfg, named_folder(cfg.run))
    published = None if run is None else stated_contract(cfg, run)
    if run is None:
        findings = _alone(cfg)
    elif published is not None:
        findings = _published(cfg, run, published)
    else:
        findings = _beside_its_run(cfg, run)
    tell(findings)
    if to := cfg.json or (run and published is None and run / CHECK_FILE):
        write_findings(Path(to), findings)
    require(findings)
    return findings


def probed_run(run: Path, policy: LocalPolicy, data: Data, recorded: Recorded, base: Agreement, played: Finding) -> list[Finding]:
    """The probe after training: what was trained, read back as it will be used, against its data and its base.

    Some frames are kept beside it, with what it does on them.

    Args:
        run: Its folder.
        policy: What was read from there.
        data: What it learned from.
        recorded: Frames of them.
        base: What its base does on these.
        played: What a replay found.
    """
    findings = [played, *_examined(data, recorded, base, policy, policy.contract, reference=policy)]
    places = np.unique(np.linspace(0, len(recorded.seen) - 1, KEPT_FRAMES).astype(int))
    seen = [recorded.seen[place] for place in places]
    Kept.of(policy, seen, policy.contract).save(run)
    tell(findings)
    write_findings(run / CHECK_FILE, findings)
    return findings


def tell(findings: Sequence[Finding]) -> None:
    """Print them."""
    say("\n".join(map(str, findings)))


def require(findings: Sequence[Finding]) -> None:
    """Go on only if all passed.

    Raises:
        CheckFailedError: one did not.
    """
    if failed := [finding.probe for finding in findings if not finding.passed]:
        raise CheckFailedError(f"{len(failed)} of {len(findings)} probes failed: {', '.join(failed)}.")


def write_findings(path: Path, findings: Sequence[Finding]) -> None:
    """As JSON."""
    write_whole(path, json.dumps([asdict(finding) for finding in findings], indent=1) + "\n")


def _alone(cfg: DictConfig) -> list[Finding]:
    if is_address(str(cfg.policy)):
        raise ValueError(f"policy={cfg.policy} has no frames of its own: name the run that it was trained in, run=runs/...")
    kept = Kept.load(Path(cfg.policy))  # before a policy is loaded
    with acting(cfg) as (policy, contract):
        return [keeps_its_actions(policy, kept, contract)]


def _published(cfg: DictConfig, folder: Path, contract: Contract) -> list[Finding]:
    """On recorded frames of its robot."""
    if (data := recorded_data(cfg, contract)) is None:
        raise ValueError(
            f"{folder} is a published policy: say recorded=<the folder of a LeRobotDataset of its robot> to be examined on."
        )
    recorded = recorded_in(data, count=cfg.frames)
    policy = load_policy(folder, rows=1, device=device_of(cfg), contract=contract).policy
    return examine_elsewhere(policy, contract, recorded)


def _beside_its_run(cfg: DictConfig, run: Path) -> list[Finding]:
    data, options = data_of(run), {"rows": 1, "device": device_of(cfg)}
    recorded = recorded_in(data, count=cfg.frames)
    base = _without_what_was_learned(cfg, run, recorded)
    reference = load_policy(run, **options).policy
    cfg.policy = cfg.policy or str(run)
    with acting(cfg) as (policy, contract):
        played = _played(cfg, run, data)
        return [played, *_examined(data, recorded, base, policy, contract, reference=reference)]


def _played(cfg: DictConfig, run: Path, data: Data) -> Finding:
    """Recorded episodes in the environment: the user's, or that of the run; a run that was not tried in one has none."""
    if cfg.get("env") is None and not in_simulation(run):
        return not_replayed()

    def make_env(task: str | None) -> gymnasium.Env:
        return _environment(cfg, run)(task=only_task(task or task_of(str(run)), what="a replay"))  # data may be a stranger's

    return replay(data.validation, make_env, count=cfg.replayed)


def _environment(cfg: DictConfig, run: Path) -> Callable[..., gymnasium.Env]:
    """The user's, or the built-in one that the run's folder names."""
    return environment_of(run) if cfg.get("env") is None else build(cfg.env.make)


def _examined(
    data: Data, recorded: Recorded, base: Agreement, policy: Policy, contract: Contract, *, reference: LocalPolicy
) -> list[Finding]:
    """Whether the policy is what was trained."""
    case = Case(
        policy=policy,
        contract=contract,
        recorded=recorded,
        statistics=data.statistics,
        reference=reference,
        trained=reference.contract,
        base=base,
    )
    return examine(case)


def _without_what_was_learned(cfg: DictConfig, run: Path, recorded: Recorded) -> Agreement:
    return agreement(load_base(run, rows=1, device=device_of(cfg)), recorded, Contract.load(run))


def recorded_in(data: Data, *, count: int) -> Recorded:
    """Evenly spaced held-out frames, with the actions that followed.

    Raises:
        ValueError: `count` is no number of frames.
    """
    if count < 1:
        raise ValueError(f"{count} recorded frames: a probe needs at least 1.")
    frames = recorded_frames(data, count=count)
    return Recorded(
        [observation_in(frame, data.embodiment) for frame in frames],
        np.stack([frame["actions"] for frame in frames]),
        np.stack([frame["action_mask"].all(axis=-1) for frame in frames]),
    )
