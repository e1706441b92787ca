"""Evaluation of a policy in the environment that a configuration names."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from vla_tune.data.sources import Data
from vla_tune.evaluation import Cell, EpisodeRecord, evaluate_cell, policy_identity, success_row
from vla_tune.evaluation.environments import MakeEnv, Vectorize
from vla_tune.evaluation.fingerprint import Look, code_seen, look_at, told_in_a_row
from vla_tune.evaluation.progress import Telling, progress
from vla_tune.evaluation.report import tables
from vla_tune.evaluation.stage import Rules
from vla_tune.evaluation.video import Film
from vla_tune.evaluation.watcher import NOBODY
from vla_tune.execution import under_contract
from vla_tune.models.capabilities import SpeaksInOrder
from vla_tune.models.heads.decoding import Constrained, Decoder
from vla_tune.printing import show
from vla_tune.run.ablations import Ablation, without
from vla_tune.run.chosen import chosen_run, step_in
from vla_tune.run.folder import ADAPTER_FOLDER, RESULTS_FILE, run_around
from vla_tune.run.following import Run, Trying
from vla_tune.run.objects import Trained, build, device_of, load_policy
from vla_tune.run.proof import check_contract_of
from vla_tune.run.protocol import protocol_of
from vla_tune.run.published import named_folder, stated_contract
from vla_tune.run.stored import data_of
from vla_tune.run.tasks import check_enough, in_words
from vla_tune.schema import CONTRACT_FILE, Contract, Policy, write_json

FILMS = "films"


@dataclass(frozen=True, kw_only=True)
class Venue:
    """Where a task is played, and who acts there."""

    make_env: MakeEnv
    """Makes its environment."""
    vectorize: Vectorize
    """Where that lives."""
    num_envs: int
    """How many there are at once."""
    actor: Policy
    """The policy, as it is asked here."""
    telling: Telling = progress
    """Tells how far it is."""


def evaluate(
    cfg: DictConfig,
    trained: Trained,
    *,
    policy: str,
    task: str,
    folder: Path,
    films: bool = False,
    venue: Venue | None = None,
    look: Look | None = None,
    ablation: Ablation | None = None,
) -> dict[str, Any]:
    """One row of the results: a policy on a task; a cell that `folder` holds already is not played again.

    Args:
        cfg: What it is tried in, and how.
        trained: The policy.
        policy: What it is called.
        task: Which task.
        folder: Where episodes are kept.
        films: Whether those that the configuration names are filmed.
        venue: Where it is played, where that serves several evaluations.
        look: What was seen of that environment, where somebody looked already.
        ablation: What is taken away, of `evaluation.ablated` episodes where that is said.
    """
    venue = venue or Venue(
        make_env=maker_of(cfg, task), vectorize=build(cfg.environments), num_envs=cfg.evaluation.num_envs, actor=trained.policy
    )
    look = look or looked_at(cfg, task, venue, trained)
    check_enough(cfg, look.metadata, task=task)
    if ablation is not None:
        venue = replace(venue, make_env=partial(without, venue.make_env, ablation))
    cell = _cell(cfg, trained, venue, look, policy=policy, task=task, ablation=ablation)
    records = _played(cfg, trained, venue, cell, folder=folder, films=films)
    world = {"protocol": cell.protocol, "fingerprint": told_in_a_row(look, environment=_environment(cfg))}
    return success_row(policy=policy, task=task, records=records) | _sentence(records) | _outside_mass(records) | world


def maker_of(cfg: DictConfig, task: str) -> MakeEnv:
    """Makes the configuration's environment of a task."""
    return partial(build(cfg.env.make), task=task)


def looked_at(cfg: DictConfig, task: str, venue: Venue, trained: Trained) -> Look:
    """What the environment of a task tells before anybody acts in it."""
    body = trained.policy.contract.embodiment
    seed = cfg.evaluation.seed
    return look_at(venue.make_env, suite=cfg.env.suite, task=task, seed=seed, embodiment=body, vectorize=venue.vectorize)


def _environment(cfg: DictConfig) -> str:
    return str(OmegaConf.to_container(cfg.env.make, resolve=True))


def evaluate_run(cfg: DictConfig, output: Path) -> float:
    """What `scripts/eval.py` does: try `cfg.run` as `cfg.evaluation` says, print the rows and write them into `output`.

    Episodes are kept in the run's own folder, those of a published policy in `output`. Returns what a sweep minimises.
    """
    folder = chosen_run(cfg, named_folder(cfg.run))
    stated = stated_contract(cfg, folder)
    loaded = load_policy(folder, rows=cfg.evaluation.rows, device=device_of(cfg), contract=stated)
    check_contract_of(folder, loaded.policy.contract)
    trained = decoding_with(build(cfg.decoding), replace(loaded, policy=replace(loaded.policy, launch=build(cfg.launch))))
    name = "fine_tuned" if (folder / ADAPTER_FOLDER).is_dir() else folder.name if stated is None else Path(cfg.run).name
    trying: Trying = build(cfg.evaluation.protocol)
    about = {"run": str(cfg.run)} | ({"step": step_in(folder)} if folder != named_folder(cfg.run) else {})
    run = Run(cfg, folder if stated is None else output, partial(data_around, folder))
    found = trying.of_policy(run, trained, name=name)
    results = {"evaluation": [], "training": {}} | {section: [row | about for row in rows] for section, rows in found.items()}
    for path in (output / RESULTS_FILE, *([Path(cfg.json)] if cfg.json else [])):
        write_json(path, results)
    print_tables(results, title=f"{cfg.run} on {in_words(cfg.task)}")
    return trying.number(results)


def data_around(folder: Path) -> Data:
    """What a run learned from, or the run in whose folder a merged policy lies.

    Raises:
        ValueError: there is no run.
    """
    if (run := run_around(folder)) is None:
        raise ValueError(f"{folder} is no run and lies in none, so there are no held-out episodes: say evaluation=simulation.")
    return data_of(run)


def decoding_with(decoder: Decoder, trained: Trained) -> Trained:
    """The policy with another way to choose its codes.

    Raises:
        ValueError: its codes are not chosen one after the other.
    """
    model = trained.policy.model
    if isinstance(model, SpeaksInOrder):
        return replace(trained, policy=replace(trained.policy, model=model.decoding_by(decoder)))
    if decoder != Constrained():
        raise ValueError(
            f"{type(decoder).__name__} chooses codes one after the other, a {type(model).__name__} does not: leave decoding at "
            "constrained."
        )
    return trained


def print_rows(rows: Sequence[dict[str, Any]], *, title: str) -> None:
    """Success rates as a table in the terminal."""
    print_tables({"evaluation": rows}, title=title)


def print_tables(results: Mapping[str, Any], *, title: str) -> None:
    """All trials of a run as tables in the terminal, wide enough to be read where there is none."""
    show(*tables(results, title=title))


def _cell(
    cfg: DictConfig, trained: Trained, venue: Venue, look: Look, *, policy: str, task: str, ablation: Ablation | None = None
) -> Cell:
    """What is played in a venue where that is taken away already."""
    contract, decoder = trained.policy.contract, repr(getattr(trained.policy.model, "decoder", None))
    arithmetic = {"rows": trained.policy.rows, "precision": contract.precision, "device": device_of(cfg)}
    if not any((part / CONTRACT_FILE).is_file() for part in trained.folders):  # it is not among the files that are hashed
        arithmetic |= {"contract": contract.record["contract_hash"]}
    return Cell(
        policy=policy,
        identity=policy_identity(trained.folders, run=arithmetic | {"decoder": decoder}),
        suite=cfg.env.suite,
        task=task,
        environment=_environment(cfg) + ("" if ablation is None else f", {ablation!r}"),
        protocol=protocol_of(cfg),
        code=look.code
        if ablation is None
        else code_seen(venue.make_env, embodiment=contract.embodiment, vectorize=venue.vectorize),
        fingerprint=look.fingerprint,
        episodes=cfg.evaluation.episodes if ablation is None else ablated_episodes(cfg),
        seed=cfg.evaluation.seed,
        execution=under_contract(build(cfg.execution), contract),
        rules=Rules(success=build(cfg.success), max_steps=cfg.evaluation.max_steps),
    )


def _played(cfg: DictConfig, trained: Trained, venue: Venue, cell: Cell, *, folder: Path, films: bool) -> list[EpisodeRecord]:
    body = trained.policy.contract.embodiment
    filming = films and len(cfg.evaluation.films) > 0
    watcher = Film(folder.parent / FILMS, list(cfg.evaluation.films), body.control_hz) if filming else NOBODY
    return evaluate_cell(
        folder,
        cell,
        policy=venue.actor,
        make_env=venue.make_env,
        embodiment=body,
        num_envs=venue.num_envs,
        cells=build(cfg.cells),
        vectorize=venue.vectorize,
        watcher=watcher,
        telling=venue.telling,
    )


def _outside_mass(records: Sequence[EpisodeRecord]) -> dict[str, float]:
    """Mean over the episodes in which it was sampled."""
    masses = [record.outside_mass for record in records if record.outside_mass is not None]
    return {"outside_mass": sum(masses) / len(masses)} if masses else {}


def _sentence(records: Sequence[EpisodeRecord]) -> dict[str, str]:
    """That of all episodes, where they have one."""
    sentences = {record.instruction for record in records}
    return {"instruction": sentences.pop()} if len(sentences) == 1 else {}


def ablated_episodes(cfg: DictConfig) -> int:
    """How many of a task are played with something taken away."""
    asked = cfg.evaluation.get("ablated")
    return cfg.evaluation.episodes if asked is None else asked


def ablations_of(cfg: DictConfig) -> dict[str, Ablation]:
    """Those that a configuration chooses, by the names that their rows bear."""
    return {str(name): build(one) for name, one in (cfg.get("ablation") or {}).items()}


def execution_name(cfg: DictConfig, contract: Contract) -> str:
    """How chunks become actions, as a table says it."""
    return type(under_contract(build(cfg.execution), contract)).__name__
