"""The policy that a configuration names: in this process, or at an address."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from omegaconf import DictConfig

from vla_tune.policy import Policy
from vla_tune.run.objects import device_of, load_policy
from vla_tune.run.recorded import dark_observation
from vla_tune.schema import Contract
from vla_tune.serving.client import RemotePolicy
from vla_tune.serving.protocol import contract_in


@contextmanager
def acting(cfg: DictConfig) -> Iterator[tuple[Policy, Contract]]:
    """The policy that `cfg.policy` names, in this process or at an address, with its contract."""
    if not str(cfg.policy).startswith(("ws://", "wss://")):
        policy = load_policy(Path(cfg.policy), rows=1, device=device_of(cfg)).policy
        policy.act([dark_observation(policy.contract)])
        yield policy, policy.contract
        return
    given = cfg.remote
    remote = RemotePolicy(
        cfg.policy,
        contract=Contract.load(Path(given.contract)) if given.contract else None,
        adapter=given.adapter,
        api_key=Path(given.api_key_file).read_text().strip() if given.api_key_file else None,
        certificate=given.certificate,
        timeout=float(given.timeout),
        patience=float(given.patience),
    )
    try:
        contract = remote.contract or contract_in(remote.metadata)
        # a server that comes back with another policy is refused
        remote.contract = contract if given.adapter is None else remote.contract
        yield remote, contract
    finally:
        remote.close()
