"""Several runs over one base in memory."""

from collections.abc import Mapping
from pathlib import Path

import torch

from vla_tune.policy import SharedPolicies
from vla_tune.run.objects import answer, check_adapter_contract, finished_adapter, policy_of, without_effect
from vla_tune.run.stored import adapter_of, checkpoint_of, loading
from vla_tune.schema import BaseWeights, Contract


class SharedRuns:
    """The policies of finished runs by name, over a base that is loaded once.

    Args:
        first: A run whose base it is.
        rows: Observations in one forward pass, whichever adapters they ask for.
        device: Where all of them are.
    """

    def __init__(self, first: Path, *, rows: int, device: str) -> None:
        checkpoint = checkpoint_of(first)
        self._model, self._rows, self._device = checkpoint.load(device=device), rows, device
        self._base = BaseWeights(content_hash=checkpoint.content_hash(), format=checkpoint.base)
        self._contracts: dict[str, Contract] = {}
        self.policies = SharedPolicies(self._model, base_hash=self._base.content_hash, rows=rows)

    @property
    def contracts(self) -> Mapping[str, Contract]:
        """Of those that can act, by name, as it is now."""
        return self._contracts

    def add(self, name: str, run: Path) -> None:
        """Make a run available, all or nothing.

        Raises:
            FileNotFoundError: the run is not finished.
            ValueError: the name is taken, or the run has another base or format of it, cannot share one, or changes nothing.
        """
        if name in self._contracts:
            raise ValueError(f"adapter {name!r} is loaded: remove it first, or give the new one another name.")
        with loading(run):
            self._contracts[name] = self._added(name, run)

    def _added(self, name: str, run: Path) -> Contract:
        folder, contract = finished_adapter(run), Contract.load(run)
        check_adapter_contract(folder, contract, self._base)
        policy = policy_of(self._model, contract, checkpoint_of(run).interface(contract), rows=self._rows, device=self._device)
        without = answer(policy)
        self.policies.add(name, policy, adapter_of(run), folder)
        try:
            with self.policies.acting(name):
                if torch.equal(answer(policy), without):
                    raise without_effect(folder)
        except Exception:
            self.policies.remove(name)
            raise
        return contract

    def remove(self, name: str) -> None:
        """Take a run's adapter away; its memory is free again.

        Raises:
            ValueError: there is none of this name, or it is the last.
        """
        if set(self._contracts) == {name}:
            raise ValueError(f"adapter {name!r} is the only one: add another before it goes.")
        self.policies.remove(name)
        del self._contracts[name]


def load_shared(runs: Mapping[str, Path], *, rows: int, device: str) -> SharedRuns:
    """Finished runs by the names under which they act.

    Raises:
        ValueError: there is no run, or `SharedRuns.add` refuses one.
    """
    if not runs:
        raise ValueError("no run was named: several policies need at least one.")
    shared = SharedRuns(next(iter(runs.values())), rows=rows, device=device)
    for name, run in runs.items():
        shared.add(name, run)
    return shared
