from collections.abc import Sequence
from dataclasses import asdict, replace

import numpy as np
import pytest

from vla_tune.tokens import ActionTokenizer, BinTokenizer, fit_fast, fit_fast_original, quantile_bins, uniform_bins, uniform_edges
from vla_tune.tokens.diagnostics import Dimension, Examined, diagnose
from vla_tune.tokens.findings import Findings
from vla_tune.tokens.table import findings_table, print_findings

HORIZON = 8
DIMENSIONS = (
    Dimension(name="x", unit="m", size=0.03, gripper=None),
    Dimension(name="turn", unit="rad", size=0.5, gripper=None),
    Dimension(name="gripper", unit="1", size=1.0, gripper=(1.0, 0.0)),
)


def healthy(count: int = 400) -> np.ndarray:
    """Smooth motions, scaled by their 1 % and 99 % quantiles, a limit that is reached again and again, and a gripper."""
    rng = np.random.default_rng(0)
    time = np.linspace(0, 2, HORIZON)[None]
    x = np.sin(time * rng.normal(0.5, 0.5, (count, 1)) + rng.uniform(0, 6, (count, 1))) + rng.normal(0, 0.01, (count, HORIZON))
    x = x / np.quantile(np.abs(x), 0.98)
    turn = np.minimum(np.cos(time * rng.normal(0.5, 0.5, (count, 1)) + rng.uniform(0, 6, (count, 1))) * 1.3, 1.0)
    turn = turn / max(1.0, np.quantile(np.abs(turn), 0.98))
    gripper = (time > rng.uniform(0, 2, (count, 1))).astype(float)
    return np.stack([x, turn, gripper], axis=2)


def examined(unclipped: np.ndarray) -> Examined:
    return Examined(chunks=np.clip(unclipped, -1, 1), unclipped=unclipped, counted=np.ones(unclipped.shape, dtype=bool))


TOKENIZERS = {
    "uniform": uniform_bins(256, vocabulary_size=32000, actions=examined(healthy())),
    "quantile": quantile_bins(256, vocabulary_size=32000, actions=examined(healthy())),
    "fast": fit_fast(1024, 10.0, vocabulary_size=32000, actions=examined(healthy())),
}


def found(tokenizer: ActionTokenizer, unclipped: np.ndarray, dimensions: Sequence[Dimension] = DIMENSIONS) -> Findings:
    return diagnose(tokenizer, examined(unclipped), dimensions)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_healthy_data_have_no_warnings(name: str):
    findings = found(TOKENIZERS[name], healthy())
    assert findings.warnings == ()
    assert findings.chunks == 400
    assert findings.values == 24
    x, turn, gripper = findings.dimensions
    assert 0.01 < x.clipped < 0.03
    assert turn.max_error < 0.1
    assert gripper.lost == 0
    assert not gripper.collides


def test_errors_are_in_robot_units():
    tokenizer = TOKENIZERS["uniform"]
    values = np.clip(healthy(), -1, 1)
    x, turn, _ = found(tokenizer, values).dimensions
    decoded = np.stack([tokenizer.decode(tokenizer.encode(chunk), action_dimension=3) for chunk in values])
    error = np.abs(decoded - values)
    assert x.mean_error == pytest.approx(0.03 * error[..., 0].mean())
    assert x.max_error == pytest.approx(0.03 * error[..., 0].max())
    assert turn.mean_error == pytest.approx(0.5 * error[..., 1].mean())
    assert x.max_error <= 0.03 / 255 + 1e-9


def test_codes_are_counted():
    bins, fast = found(TOKENIZERS["uniform"], healthy()), found(TOKENIZERS["fast"], healthy())
    assert (bins.mean_codes, bins.max_codes, bins.num_codes) == (24, 24, 256)
    assert fast.mean_codes < 12
    assert fast.mean_codes < fast.max_codes <= 24
    used = {code for chunk in np.clip(healthy(), -1, 1) for code in TOKENIZERS["fast"].encode(chunk).tolist()}
    assert fast.unused_codes == fast.num_codes - len(used)


def test_steps_beyond_the_end_do_not_count():
    values = healthy()
    values[:, 4:, 0] = 7.0
    chunks = examined(values)
    counted = chunks.counted.copy()
    counted[:, 4:] = False
    spoiled = diagnose(TOKENIZERS["uniform"], chunks, DIMENSIONS).dimensions[0]
    spared = diagnose(TOKENIZERS["uniform"], replace(chunks, counted=counted), DIMENSIONS).dimensions[0]
    assert spoiled.clipped > 0.5
    assert spared.clipped < 0.04


@pytest.mark.parametrize("name", ["uniform", "fast"])
def test_clipped_values_are_found(name: str):
    values = healthy()
    values[..., 0] *= 1.5
    findings = found(TOKENIZERS[name], values)
    assert findings.dimensions[0].clipped == pytest.approx((np.abs(values[..., 0]) > 1).mean())
    assert any(warning.startswith("x:") and "outside [-1, 1] and are clipped" in warning for warning in findings.warnings)
    assert not any(warning.startswith("turn:") for warning in findings.warnings)


def test_saturated_end_bins_are_found():
    """Wide end bins swallow a third of the values."""
    edges = np.concatenate([[-1.0], np.linspace(-0.6, 0.6, 254), [1.0]])[None]
    findings = found(BinTokenizer(edges, 32000), healthy())
    saturated = findings.dimensions[0].saturated
    assert saturated is not None
    assert saturated == pytest.approx((np.abs(np.clip(healthy()[..., 0], -1, 1)) > 0.6).mean(), abs=0.01)
    assert any(warning.startswith("x:") and "come back as one" in warning for warning in findings.warnings)


def test_a_limit_that_is_reached_often_is_not_saturation():
    values = healthy()
    values[:200, :, 0] = 1.0
    assert found(TOKENIZERS["uniform"], np.clip(values, -1, 1)).dimensions[0].saturated == 0


def test_unused_bins_are_found():
    """One far outlier has taken the whole range; the rest are a tenth of it."""
    values = healthy()
    values[..., 0] = np.clip(values[..., 0], -1, 1) * 0.1
    values[0, 0, 0] = 1.0
    findings = found(TOKENIZERS["uniform"], values)
    assert findings.dimensions[0].unused is not None
    assert findings.dimensions[0].unused > 220
    (warning,) = findings.warnings
    assert warning.startswith("x:")
    assert "of 256 bins hold all" in warning
    assert "tokens=quantile_256" in warning
    assert found(quantile_bins(256, vocabulary_size=32000, actions=examined(values)), values).warnings == ()


def test_few_different_values_need_few_bins():
    values = np.clip(healthy(), -1, 1)
    values[..., 0] = np.round(values[..., 0])
    assert found(TOKENIZERS["uniform"], values).warnings == ()


def test_coarse_tokens_are_found():
    few = found(uniform_bins(6, vocabulary_size=32000, actions=examined(healthy())), np.clip(healthy(), -1, 1))
    assert any(warning.startswith("x: the mean round-trip error is") and "Take more bins." in warning for warning in few.warnings)
    rough = found(fit_fast(256, 1.0, vocabulary_size=32000, actions=examined(healthy())), healthy())
    assert any(warning.startswith("x: the mean") and "Take a larger tokens.scale" in warning for warning in rough.warnings)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_grippers_with_the_same_codes_are_found(name: str):
    """Statistics that have only seen the gripper open give both ends the same number."""
    dimensions = (*DIMENSIONS[:2], replace(DIMENSIONS[2], gripper=(0.0, 0.0)))
    findings = found(TOKENIZERS[name], healthy(), dimensions)
    assert findings.dimensions[2].collides
    assert any("the engaged and the released gripper have the same codes" in warning for warning in findings.warnings)


def test_grippers_in_one_bin_are_found():
    """An unscaled gripper beyond [-1, 1]: both ends are clipped to 1."""
    dimensions = (*DIMENSIONS[:2], replace(DIMENSIONS[2], gripper=(40.0, 80.0)))
    findings = found(TOKENIZERS["uniform"], healthy(), dimensions)
    assert findings.dimensions[2].collides


def test_grippers_that_flip_are_found():
    """At a coarse scale, a gripper that closes in the last step alone is rounded away."""
    tokenizer = fit_fast(256, 0.8, vocabulary_size=32000, actions=examined(healthy()))
    findings = found(tokenizer, healthy())
    lost = findings.dimensions[2].lost
    assert lost is not None
    assert lost > 0
    assert any(f"gripper: {lost} gripper values come back on the other side" in warning for warning in findings.warnings)


def test_a_gripper_in_the_middle_is_lost():
    """Bins whose decoded values are -0.5 and 0.5 for a gripper of 0 and 1."""
    findings = found(BinTokenizer(np.array([[-1.0, 0.0, 1.0]]), 32000), healthy())
    assert findings.dimensions[2].lost == int((healthy()[..., 2] == 0).sum() + (healthy()[..., 2] == 1).sum())


def test_chunks_without_an_encoding_are_found():
    narrow = fit_fast_original(1024, 10.0, vocabulary_size=32000, actions=examined(0.5 * healthy()))
    values = 0.5 * healthy()
    values[:3] = -1.0
    findings = found(narrow, values)
    assert findings.refused is not None
    assert findings.refused[0] == 3
    assert (
        f"{findings.refused[0]} of 400 chunks cannot be encoded; the first: the chunk has DCT coefficients" in findings.warnings[0]
    )
    with pytest.raises(ValueError, match="no symbol"):
        found(narrow, np.full((5, HORIZON, 3), -1.0))


def test_a_tokenizer_of_other_data_is_found():
    still = np.zeros((50, HORIZON, 3))
    other = found(TOKENIZERS["fast"], still)
    assert any("codes never occur" in warning for warning in other.warnings)


def test_a_tokenizer_that_does_not_compress_is_found():
    noise = np.random.default_rng(0).uniform(-1, 1, (60, HORIZON, 3))
    bare = fit_fast(59, 10.0, vocabulary_size=32000, actions=examined(noise))
    assert any("nothing is compressed" in warning for warning in found(bare, noise).warnings)


def test_some_of_many_chunks_are_spread_evenly():
    chunks = examined(healthy())
    assert (chunks.spread(10**6).chunks == chunks.chunks).all()
    assert (chunks.spread(4).unclipped == chunks.unclipped[[0, 100, 200, 300]]).all()


def test_a_dimension_that_never_changes_has_no_error():
    dimensions = (replace(DIMENSIONS[0], size=0.0), *DIMENSIONS[1:])
    values = healthy()
    values[..., 0] = 0.0
    assert found(TOKENIZERS["uniform"], values, dimensions).dimensions[0].mean_error == 0
    assert not any(warning.startswith("x:") for warning in found(TOKENIZERS["uniform"], values, dimensions).warnings)


def test_the_table_has_a_row_for_each_dimension(capsys: pytest.CaptureFixture[str]):
    findings = found(BinTokenizer(uniform_edges(6), 32000), healthy() * 1.5)
    assert findings_table(findings, title="title").row_count == 3
    print_findings(findings, title="title")
    printed = capsys.readouterr().out
    for words in ("turn", "rad", "24.0 codes per chunk (at most 24) for 24 values", *findings.warnings):
        assert words in printed
    assert asdict(findings)["dimensions"][0]["name"] == "x"
    print_findings(found(TOKENIZERS["uniform"], healthy()), title="title")
    assert "No warnings." in capsys.readouterr().out
