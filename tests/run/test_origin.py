"""What a run learned from is still there when it goes on."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from vla_tune.models.openvla import OpenVLACheckpoint
from vla_tune.run.changes import CHANGES_FILE
from vla_tune.run.folder import asset
from vla_tune.run.origin import ORIGIN_FILE, Origin, begin, load_origin, origin_of
from vla_tune.schema import CONTRACT_FILE, Contract
from vla_tune.training.loop import CHECKPOINTS

ORIGIN = Origin(base_hash="1" * 64, asset=None, device="cpu", data="3" * 64)


def with_millimetres(contract: Contract) -> Contract:
    state = contract.statistics.state
    larger = replace(state, q99=tuple(1000 * value for value in state.q99))
    return replace(contract, statistics=replace(contract.statistics, state=larger))


OTHERS = {
    "contract.statistics": lambda contract, origin: (with_millimetres(contract), origin),
    "contract.model.action_tokens": lambda contract, origin: (
        replace(contract, model=contract.model | {"action_tokens": contract.model["action_tokens"] | {"vocabulary_size": 99}}),
        origin,
    ),
    "contract.model.prompt": lambda contract, origin: (
        replace(contract, model=contract.model | {"prompt": "{instruction}"}),
        origin,
    ),
    "origin.base_hash": lambda contract, origin: (contract, replace(origin, base_hash="2" * 64)),
    "origin.data": lambda contract, origin: (contract, replace(origin, data="4" * 64)),
    "origin.device": lambda contract, origin: (contract, replace(origin, device="cuda")),
}


@pytest.fixture
def run(tmp_path: Path, tiny_contract: Contract) -> Path:
    begin(tmp_path, tiny_contract, ORIGIN, resume="same")
    (tmp_path / CHECKPOINTS / "step_000002").mkdir(parents=True)
    return tmp_path


def test_the_same_goes_on(run: Path, tiny_contract: Contract):
    begin(run, tiny_contract, ORIGIN, resume="same")
    assert load_origin(run) == ORIGIN
    assert not (run / CHANGES_FILE).exists()


def test_a_run_from_before_names_goes_on_and_keeps_them_from_then_on(run: Path, tiny_contract: Contract):
    body = tiny_contract.embodiment
    first, last = body.action
    names = (replace(first, names=("x", "y", "z")), replace(last, names=("suction",)))
    named = replace(tiny_contract, embodiment=replace(body, action=names))
    begin(run, named, ORIGIN, resume="same")
    assert Contract.load(run) == named
    with pytest.raises(ValueError, match=r"contract.embodiment: .* there, .* now"):
        begin(run, tiny_contract, ORIGIN, resume="same")


@pytest.mark.parametrize("key", OTHERS)
def test_what_was_exchanged_is_named_before_anything_is_written(run: Path, tiny_contract: Contract, key: str):
    before = {name: (run / name).read_bytes() for name in (CONTRACT_FILE, ORIGIN_FILE)}
    others = OTHERS[key](tiny_contract, ORIGIN)
    with pytest.raises(ValueError, match=rf"{key}: .* there, .* now.*resume=changed"):
        begin(run, *others, resume="same")
    assert {name: (run / name).read_bytes() for name in before} == before
    begin(run, *others, resume="changed")
    assert (Contract.load(run), load_origin(run)) == others
    (note,) = json.loads((run / CHANGES_FILE).read_text())["changes"]
    assert (note["step"], list(note["changed"]), note["as_if_begun_with_it"]) == (2, [key], False)


def test_before_a_step_was_learned_anything_may_change(tmp_path: Path, tiny_contract: Contract):
    begin(tmp_path, tiny_contract, ORIGIN, resume="same")
    begin(tmp_path, with_millimetres(tiny_contract), ORIGIN, resume="same")
    assert Contract.load(tmp_path) == with_millimetres(tiny_contract)


def test_the_shipped_base_is_known_by_its_name():
    checkpoint = OpenVLACheckpoint(asset("tiny"))
    origin = origin_of(checkpoint, device="cuda:1", data="5")  # pyright: ignore[reportArgumentType]
    assert (origin.asset, origin.device, origin.base_hash, origin.data) == ("tiny", "cuda", checkpoint.content_hash(), "5")


def test_of_a_run_that_kept_less_only_that_is_compared(run: Path, tiny_contract: Contract):
    replace(ORIGIN, data=None, device=None).save(run)
    begin(run, tiny_contract, ORIGIN, resume="same")
    assert load_origin(run) == ORIGIN


@pytest.mark.parametrize("text", ["{", "[]", '{"base_hash": 3}', '{"base_hash": "1", "other": "2"}'])
def test_a_damaged_file_is_named(tmp_path: Path, text: str):
    (tmp_path / ORIGIN_FILE).write_text(text)
    with pytest.raises(ValueError, match=rf"{ORIGIN_FILE} (is damaged|holds a list)"):
        load_origin(tmp_path)
    assert load_origin(tmp_path / "elsewhere") is None
