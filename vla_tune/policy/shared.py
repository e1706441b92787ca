"""Policies that share a base: each has its own adapter and contract, and one forward pass acts for several."""

from collections.abc import Hashable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from torch import nn

from vla_tune.adapters import Adapter
from vla_tune.adapters.bank import BASE, AdapterBank
from vla_tune.models.forward import bucket, filled, passes
from vla_tune.policy.local import LocalPolicy, finite, to_sample
from vla_tune.schema import Observation, content_hash


class SharedPolicies:
    """One model, and policies over it: for each adapter one, and one for the base alone where it can act.

    What an observation leads to does not depend on its company, nor on the adapters that other rows ask for.

    Args:
        model: the base's network, without an adapter.
        base_hash: SHA-256 of its weights.
        rows: observations in one forward pass.
        base: the policy that acts as the base does, named `base`.

    Raises:
        ValueError: the model carries an adapter already.
    """

    def __init__(self, model: nn.Module, *, base_hash: str, rows: int, base: LocalPolicy | None = None) -> None:
        self._bank, self._model, self._rows = AdapterBank(model, base_hash=base_hash), model, rows
        self._policies = {} if base is None else {BASE: base}

    @property
    def names(self) -> tuple[str, ...]:
        """Who can act."""
        return tuple(self._policies)

    def add(self, name: str, policy: LocalPolicy, adapter: Adapter, folder: Path) -> None:
        """Make an adapter available under `name`, or put it in the place of one of that name; all or nothing.

        Args:
            name: what `act` calls it.
            policy: model, pipeline and contract of its training run, over the network that is shared.
            adapter: its method.
            folder: its files.

        Raises:
            ValueError: it cannot share this base (`AdapterBank.add`), or `policy` is over another model.
        """
        if policy.model.network is not self._model:
            raise ValueError(f"the policy of {name!r} has a model of its own: build it over the one that is shared.")
        self._bank.add(name, adapter, folder)
        self._policies[name] = policy

    def remove(self, name: str) -> None:
        """Take an adapter away.

        Raises:
            ValueError: there is none of this name.
        """
        self._bank.remove(name)
        del self._policies[name]

    def policy(self, name: str) -> "SharedPolicy":
        """One adapter as a policy of its own.

        Raises:
            ValueError: there is none of this name.
        """
        self._check([name])
        return SharedPolicy(self, name)

    def acting(self, name: str) -> AbstractContextManager[None]:
        """In this context, a forward pass of one row through the model goes through the adapter `name`."""
        return self._bank.chosen([name])

    def act(self, observations: Sequence[Observation], names: Sequence[str]) -> list[Float[np.ndarray, "T A"]]:
        """The next actions for each observation, by the adapter named beside it, in the units of its own robot.

        Raises:
            ValueError: there is no adapter of a name, or an observation is not what its contract says.
            NonFiniteActionsError: a model gives NaN or infinity.
        """
        self._check(names)
        policies = [self._policies[name] for name in names]
        pairs = zip(policies, observations, strict=True)
        samples = [policy.pipeline(to_sample(observation, policy.contract.embodiment)) for policy, observation in pairs]
        kinds = [(_kind(policy), bucket(sample)) for policy, sample in zip(policies, samples, strict=True)]
        chunks: dict[int, Float[np.ndarray, "T A"]] = {}
        for members in passes(kinds, self._rows):
            normalized = self._predict([samples[index] for index in members], [names[index] for index in members])
            for index, chunk in zip(members, normalized, strict=False):
                chunks[index] = finite(policies[index].pipeline.robot_actions(chunk, samples[index]).astype(np.float32))
        return [chunks[index] for index in range(len(samples))]

    def _predict(self, samples: list[dict], names: list[str]) -> Float[np.ndarray, "rows T A"]:
        """Normalised actions of samples of one kind."""
        policy = self._policies[names[0]]
        with self._bank.chosen(filled(names, self._rows)):
            return policy.forward(policy.forward.act, filled(samples, self._rows))

    def _check(self, names: Sequence[str]) -> None:
        unknown = [name for name in names if name not in self._policies]
        if unknown:
            raise ValueError(f"adapter {unknown[0]!r}: loaded are {', '.join(self._policies)}.")


@dataclass(frozen=True, eq=False)
class SharedPolicy:
    """One of several policies over a base (a `Policy`)."""

    policies: SharedPolicies
    name: str

    def act(self, observations: Sequence[Observation]) -> Float[np.ndarray, "N T A"]:
        """The next T actions for each observation, in robot units."""
        return np.stack(self.policies.act(observations, [self.name] * len(observations)))

    def reset(self) -> None:
        """Nothing to forget: every chunk follows from its observation alone."""


def _kind(policy: LocalPolicy) -> Hashable:
    """Policies of one kind read batches of the same shape and decode them alike, in the same precision."""
    contract = policy.contract
    body = contract.embodiment
    return (
        content_hash(contract.model),
        (contract.horizon, contract.precision, len(body.cameras), body.state_dimension, body.action_dimension),
    )
