"""Whether a policy still does what it did when it was trained: asked before it serves a client or drives a robot."""

import logging
from pathlib import Path

from vla_tune.check.finding import Finding
from vla_tune.check.kept import KEPT_FILE, Kept, keeps_its_actions
from vla_tune.schema import Contract, Policy

_log = logging.getLogger(__name__)


def check_contract_of(folder: Path, contract: Contract) -> None:
    """Refuse a contract that is not the one by which the frames that lie in the folder were acted on, where there are any.

    Raises:
        ValueError: the contract was edited since; the fields are named.
    """
    trained = Kept.load(folder).contract if (folder / KEPT_FILE).is_file() else None
    if trained is not None and (other := contract.differences(trained)):
        raise ValueError(
            f"{folder}: its contract is not that of training: {'; '.join(other[:3])}. It was edited: take the contract.json of the "
            "training run again."
        )


def proof(policy: Policy, contract: Contract, folder: Path, *, unproved: bool) -> list[Finding]:
    """What a policy does on the frames that lie in its folder, held against what it did on them in training.

    Args:
        policy: Read back from where it lies.
        contract: By which it acts.
        folder: That of the run, of the merged weights or of the export.
        unproved: The user's word that a folder without such frames may act all the same.

    Raises:
        ValueError: there are no frames, and the user did not say it.
    """
    if (folder / KEPT_FILE).is_file():
        return [keeps_its_actions(policy, Kept.load(folder), contract)]
    if not unproved:
        raise ValueError(
            f"{folder} holds no {KEPT_FILE}, so nothing says that it does what was trained: train, merge or export it again, which "
            "keeps one; or say unproved=true."
        )
    _log.warning("%s holds no %s: what it does was not held against what it did in training.", folder, KEPT_FILE)
    return []
