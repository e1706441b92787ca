import json
from dataclasses import replace
from pathlib import Path

import pytest

from vla_tune.data.sources import Data
from vla_tune.models.openvla.record import record_of
from vla_tune.run.fine_tune import contract_of
from vla_tune.run.objects import build
from vla_tune.run.tokens import dimensions_of, examine_tokens, fit_tokenizer
from vla_tune.schema import Contract
from vla_tune.tokens import FastTokens, TrainingActions


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Four episodes of the tabletop, recorded once."""
    return [f"data.sources.0.folder={tmp_path_factory.mktemp('data') / 'demonstrations'}", "data.sources.0.episodes=4"]


def test_findings_are_printed_and_written(tmp_path: Path, few: list[str], capsys: pytest.CaptureFixture[str], configuration):
    path = tmp_path / "new" / "tokens.json"
    found = examine_tokens(configuration("tokens", *few, f"json={path}"))
    written = json.loads(path.read_text())
    assert found.warnings == ()
    assert written["warnings"] == []
    assert written["mean_codes"] == 16
    assert [each["name"] for each in written["dimensions"]] == [*(f"tool_translation.{axis}" for axis in range(3)), "suction"]
    printed = capsys.readouterr().out
    assert "uniform_bins on demonstrations" in printed
    assert "No warnings." in printed


def test_a_run_s_words_choose_what_is_examined(few: list[str], configuration):
    assert examine_tokens(configuration("tokens", *few, "tokens=quantile_256")).warnings == ()
    some = examine_tokens(configuration("tokens", *few, "tokens=fast_256", "horizon=8", "chunks=5"))
    assert (some.chunks, some.values) == (5, 32)
    with pytest.raises(ValueError, match=r"512 ids has no room for 600 action codes"):
        examine_tokens(configuration("tokens", *few, "tokens.num_bins=600"))


def test_a_fitted_tokenizer_is_written_and_used_again(
    tmp_path: Path, few: list[str], capsys: pytest.CaptureFixture[str], configuration
):
    path = tmp_path / "tokenizer.json"
    found = fit_tokenizer(configuration("tokenizer", *few, "tokens=fast_256", f"to={path}"))
    assert found.mean_codes < 16
    assert f"Written to {path}: train with tokens=fast_file tokens.file={path}" in capsys.readouterr().out
    assert json.loads(path.read_text())["fit"]["mean_codes"] == found.mean_codes
    again = examine_tokens(configuration("tokens", *few, "tokens=fast_file", f"tokens.file={path}"))
    assert again == found
    with pytest.raises(ValueError, match=r"horizon=4, or fit again with scripts/tokenizer.py horizon=6"):
        examine_tokens(configuration("tokens", *few, "tokens=fast_file", f"tokens.file={path}", "horizon=6"))


def test_bins_are_not_written(tmp_path: Path, few: list[str], configuration):
    with pytest.raises(ValueError, match="a BinTokenizer needs no file: choose tokens=fast_1024"):
        fit_tokenizer(configuration("tokenizer", *few, "tokens=uniform_256", f"to={tmp_path / 'tokenizer.json'}"))
    assert not list(tmp_path.iterdir())


def test_a_contract_holds_what_was_fitted(few: list[str], configuration):
    cfg = configuration("train", *few, "tokens=fast_256", "head=autoregressive", "execute_steps=2")
    data: Data = build(cfg.data)
    assert isinstance(data.actions, TrainingActions)
    contract = contract_of(cfg, data, build(cfg.model), head=build(cfg.head))
    assert (contract.horizon, contract.execute_steps) == (4, 2)
    tokens = record_of(contract).action_tokens
    assert contract.resolution == 0.1
    assert isinstance(tokens, FastTokens)
    assert (tokens.vocabulary_size, tokens.horizon, tokens.action_dimension, tokens.scale) == (512, 4, 4, 10.0)
    assert contract_of(cfg, build(cfg.data), build(cfg.model), head=build(cfg.head)) == contract


def test_dimensions_are_in_robot_units(tiny_contract: Contract):
    """The contract's translations reach from -0.03 to 0.03 m, its suction is not scaled."""
    body, statistics = tiny_contract.embodiment, tiny_contract.statistics
    x, _, _, suction = dimensions_of(body, statistics)
    assert (x.name, x.unit, x.gripper) == ("tool_translation.0", "m", None)
    assert x.size == pytest.approx(0.03)
    assert (suction.name, suction.size, suction.gripper) == ("suction", 1.0, (1.0, 0.0))
    scaled = replace(statistics, action=replace(statistics.action, normalization=("quantile",) * 4))
    assert dimensions_of(body, scaled)[3].gripper == pytest.approx((1.0, -1.0))
    never = replace(statistics, action=replace(scaled.action, min=(0.0,) * 4, max=(0.0,) * 4, q01=(0.0,) * 4, q99=(0.0,) * 4))
    assert dimensions_of(body, never)[3].gripper == (0.0, 0.0)


@pytest.mark.parametrize("look", [examine_tokens, fit_tokenizer])
def test_no_tokenizer_is_not_looked_at(tmp_path: Path, few: list[str], configuration, look):
    root, more = ("tokens", []) if look is examine_tokens else ("tokenizer", [f"to={tmp_path / 'tokenizer.json'}"])
    with pytest.raises(ValueError, match=r"tokens=none: .* choose one, as tokens=uniform_256"):
        look(configuration(root, *few, "tokens=none", *more))
