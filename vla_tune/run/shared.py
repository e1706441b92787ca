"""Several runs over one base in memory."""

from collections.abc import Mapping
from pathlib import Path

from vla_tune.models.base import Checkpoint
from vla_tune.policy import SharedPolicies
from vla_tune.run.folder import ADAPTER_FOLDER, load_config
from vla_tune.run.objects import build, policy_of
from vla_tune.schema import Contract


def load_shared(runs: Mapping[str, Path], *, rows: int, device: str) -> SharedPolicies:
    """The policies of finished runs by name, over a base that is loaded once.

    Args:
        runs: Folders by the names under which their policies act.
        rows: Observations in one forward pass, whichever adapters they ask for.
        device: Where all of them are.

    Raises:
        ValueError: there is no run, the bases differ in content or format, or an adapter cannot share its base.
    """
    if not runs:
        raise ValueError("no run was named: several policies need at least one.")
    checkpoints: dict[str, Checkpoint] = {name: build(load_config(run).model) for name, run in runs.items()}
    first = next(iter(checkpoints))
    known = {name: (checkpoint.content_hash(), checkpoint.base) for name, checkpoint in checkpoints.items()}
    for name, base in known.items():
        if base != known[first]:
            raise ValueError(f"{runs[name]} was trained on {base}, {runs[first]} on {known[first]}: adapters share one base only.")
    model = checkpoints[first].load(device=device)
    shared = SharedPolicies(model, base_hash=known[first][0], rows=rows)
    for name, run in runs.items():
        policy = policy_of(model, Contract.load(run), checkpoints[name].processor, rows=rows, device=device)
        shared.add(name, policy, build(load_config(run).adapter), run / ADAPTER_FOLDER)
    return shared
