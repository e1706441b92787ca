"""Adapters are added and removed while others act."""

from dataclasses import dataclass

import numpy as np
import pytest

from vla_tune.schema import Contract, Observation
from vla_tune.serving.client import RemotePolicy, ServerError


@dataclass
class Dictionary:
    """Takes adapters from one dictionary into another."""

    there: dict[str, Contract]
    served: dict[str, Contract]

    def add(self, name: str) -> None:
        if name not in self.there:
            raise ValueError(f"adapter {name!r}: there is none.")
        self.served[name] = self.there[name]

    def remove(self, name: str) -> None:
        del self.served[name]


def seen() -> Observation:
    return Observation({"front": np.zeros((64, 64, 3), np.uint8)}, np.zeros(4, np.float32), "lift the red block")


def test_an_adapter_is_added_used_and_removed(served, tiny_contract):
    contracts = {"one": tiny_contract}

    def act(observations, names):
        return [np.full((4, 4), {"one": 1.0, "two": 2.0}[name], np.float32) for name in names]

    with served(act, contracts=contracts, adapters=Dictionary({"two": tiny_contract}, contracts)) as address:
        first = RemotePolicy(address.url)
        assert first.act([seen()])[0, 0, 0] == 1.0
        first.add_adapter("two")
        second = RemotePolicy(address.url, adapter="two")
        assert second.act([seen()])[0, 0, 0] == 2.0
        assert first.act([seen()])[0, 0, 0] == 1.0
        with pytest.raises(ServerError, match="adapter 'three': there is none"):
            first.add_adapter("three")
        first.remove_adapter("two")
        with pytest.raises(ServerError, match="adapter 'two': loaded are one"):
            second.act([seen()])
        assert first.act([seen()])[0, 0, 0] == 1.0
        first.close()
        second.close()


def test_without_a_folder_nothing_changes(served, echo):
    with served(echo) as address:
        policy = RemotePolicy(address.url)
        with pytest.raises(ServerError, match="started without a folder"):
            policy.add_adapter("two")
        policy.close()
