"""A run of the time of version 2 of the contract, stored with what it did then (`golden/run_of_version_2`)."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from vla_tune.check.kept import Kept
from vla_tune.run.objects import load_policy
from vla_tune.schema import CONTRACT_FILE, CONTRACT_VERSION, Contract

STORED = Path(__file__).parents[1] / "golden" / "run_of_version_2"


def chunks(run: Path) -> np.ndarray:
    policy = load_policy(run, rows=1, device="cpu").policy
    return np.concatenate([policy.act([one]) for one in Kept.load(STORED).seen])


def test_it_acts_as_it_did_and_as_it_does_when_it_is_written_anew(tmp_path: Path):
    assert json.loads((STORED / CONTRACT_FILE).read_text())["version"] == 2
    then, now = Kept.load(STORED).chunks, chunks(STORED)
    assert np.array_equal(now, then)
    anew = shutil.copytree(STORED, tmp_path / "anew")
    for folder in (anew, anew / "adapter"):
        Contract.load(folder).save(folder)
        assert json.loads((folder / CONTRACT_FILE).read_text())["version"] == CONTRACT_VERSION == 3
        assert Contract.load(folder) == Contract.load(STORED / folder.relative_to(anew))
    assert np.array_equal(chunks(anew), then)


def test_what_it_says_is_read_in_the_words_of_today():
    contract = Contract.load(STORED)
    assert [group.normalization for group in contract.embodiment.action] == ["quantile", "none"]
    assert [group.names for group in contract.embodiment.action] == [(), ()]
    assert contract.statistics.action.normalization == ("quantile", "quantile", "quantile", "none")
    assert contract.embodiment.control_hz == 10.0


@pytest.mark.parametrize("edit", [("q99", 0.031), ("mask", False), ("mask", 1)])
def test_edited_statistics_are_refused(tmp_path: Path, edit: tuple):
    record = json.loads((STORED / CONTRACT_FILE).read_text())
    record["statistics"]["action"][edit[0]][0] = edit[1]
    (tmp_path / CONTRACT_FILE).write_text(json.dumps(record))
    with pytest.raises(ValueError, match=CONTRACT_FILE):
        Contract.load(tmp_path)
