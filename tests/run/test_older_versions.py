"""Runs of the time of versions 2 and 3 of the contract, stored with what they did then.

`golden/run_of_version_2` speaks bins in parallel; `golden/run_of_version_3` learned FAST's codes, one after the other, from
augmented pictures, and acts through a centre crop.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from vla_tune.check.kept import Kept
from vla_tune.models.openvla.inputs import OpenVLAInputs
from vla_tune.models.sealed import SEAL_FILE, seal
from vla_tune.run.objects import load_policy
from vla_tune.schema import CONTRACT_FILE, CONTRACT_VERSION, Contract, content_hash, contract_from_record

GOLDEN = Path(__file__).parents[1] / "golden"
STORED = GOLDEN / "run_of_version_2"


def chunks(run: Path, kept: Kept) -> np.ndarray:
    policy = load_policy(run, rows=1, device="cpu").policy
    return np.concatenate([policy.act([one]) for one in kept.seen])


@pytest.mark.parametrize("version", [2, 3])
def test_it_acts_as_it_did_and_as_it_does_when_it_is_written_anew(version: int, tmp_path: Path):
    stored = GOLDEN / f"run_of_version_{version}"
    assert json.loads((stored / CONTRACT_FILE).read_text())["version"] == version
    kept = Kept.load(stored)
    then, now = kept.chunks, chunks(stored, kept)
    assert np.array_equal(now, then)
    anew = shutil.copytree(stored, tmp_path / "anew")
    for folder in (anew, anew / "adapter"):
        Contract.load(folder).save(folder)
        if (folder / SEAL_FILE).is_file():
            seal(folder)
        assert json.loads((folder / CONTRACT_FILE).read_text())["version"] == CONTRACT_VERSION
        assert Contract.load(folder) == Contract.load(stored / folder.relative_to(anew))
    assert np.array_equal(chunks(anew, kept), then)


def test_what_it_says_is_read_in_the_words_of_today():
    contract = Contract.load(STORED)
    assert [group.normalization for group in contract.embodiment.action] == ["quantile", "none"]
    assert [group.names for group in contract.embodiment.action] == [(), ()]
    assert contract.statistics.action.normalization == ("quantile", "quantile", "quantile", "none")
    assert contract.embodiment.control_hz == 10.0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": {"family": "os.system"}}, r"extra fields found \(model\), which version 3 did not have"),
        ({"resolution": 1e300}, r"extra fields found \(resolution\)"),
        ({"surprise": 1}, r"extra fields found \(surprise\)"),
        ({"location_codes": False}, "False @ .location_codes is not a whole number"),
        ({"image": {"kind": "os.system"}}, "extra fields found"),
        ({"decoding": "os.system"}, "model.decoding='os.system' must be one of"),
    ],
)
def test_an_older_file_says_no_more_than_it_could(tiny_tokenizer, changes: dict, said: str):
    record = json.loads((GOLDEN / "run_of_version_3" / CONTRACT_FILE).read_text()) | changes
    del record["contract_hash"]
    record["contract_hash"] = content_hash(record)
    with pytest.raises(ValueError, match=said):
        OpenVLAInputs.of(contract_from_record(record, source="contract.json"), tiny_tokenizer)


@pytest.mark.parametrize("edit", [("q99", 0.031), ("mask", False), ("mask", 1)])
def test_edited_statistics_are_refused(tmp_path: Path, edit: tuple):
    record = json.loads((STORED / CONTRACT_FILE).read_text())
    record["statistics"]["action"][edit[0]][0] = edit[1]
    (tmp_path / CONTRACT_FILE).write_text(json.dumps(record))
    with pytest.raises(ValueError, match=CONTRACT_FILE):
        Contract.load(tmp_path)
