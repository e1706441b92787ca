"""The policy that a configuration names: in this process, or at an address."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from omegaconf import DictConfig

from vla_tune.run.objects import device_of, load_policy
from vla_tune.run.recorded import dark_observation
from vla_tune.schema import Contract, Policy
from vla_tune.serving.client import remote_policy
from vla_tune.serving.protocol import contract_in


def is_address(policy: str) -> bool:
    """Whether a policy is named by where it is served, not by its folder."""
    return policy.startswith(("ws://", "wss://"))


@contextmanager
def acting(cfg: DictConfig) -> Iterator[tuple[Policy, Contract]]:
    """The policy that `cfg.policy` names, in this process or at an address, with its contract."""
    if not is_address(str(cfg.policy)):
        policy = load_policy(Path(cfg.policy), rows=1, device=device_of(cfg)).policy
        policy.act([dark_observation(policy.contract)])
        yield policy, policy.contract
        return
    given = cfg.remote
    remote = remote_policy(cfg.policy, **given)
    try:
        contract = remote.contract or contract_in(remote.metadata)
        remote.contract = contract  # a server that comes back with another policy is refused
        remote.close()
        _ = remote.metadata  # connects again: it must agree with that contract, and the adapter have the one that is announced
        yield remote, contract
    finally:
        remote.close()
