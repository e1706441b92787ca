from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vla_tune.tokens import (
    ActionTokenizer,
    BinTokenizer,
    action_tokenizer,
    quantile_bins,
    quantile_edges,
    uniform_bins,
    uniform_edges,
)

# What the original OpenVLA code (commit c8f03f4) computes on grids that hold every edge, for three vocabularies.
GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "action_tokenizer.npz")
VOCABULARIES = (32000, 800, 50257)
SAMPLE = np.random.default_rng(0).normal(0, 0.3, (2000, 3))
"""Actions that are dense around zero."""


@dataclass(frozen=True)
class Actions:
    """Single actions as training data."""

    chunks: np.ndarray
    counted: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray) -> "Actions":
        return cls(values[:, None], np.ones(values[:, None].shape, bool))


TOKENIZERS = {
    "uniform": BinTokenizer(uniform_edges(256), 32000),
    "quantile": quantile_bins(64, vocabulary_size=512, actions=Actions.of(SAMPLE)),
}

actions = arrays(np.float64, st.tuples(st.integers(1, 6), st.just(3)), elements=st.floats(-1, 1))


def ids(tokenizer: BinTokenizer, values: np.ndarray) -> np.ndarray:
    return tokenizer.encode(values.reshape(-1, 1))


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_ids_are_the_original_ones(vocabulary: int):
    tokenizer = BinTokenizer(uniform_edges(256), vocabulary)
    grid = GOLDEN[f"v{vocabulary}_grid_f64"]
    number = ~np.isnan(grid)  # the original takes NaN for 1.0
    assert number.sum() == len(grid) - 1
    assert (ids(tokenizer, grid[number]) == GOLDEN[f"v{vocabulary}_ids_f64"][number]).all()
    assert (ids(tokenizer, grid[number].astype(np.float32)) == GOLDEN[f"v{vocabulary}_ids_f32"][number]).all()
    batch = GOLDEN[f"v{vocabulary}_batch_in"]
    assert (tokenizer.encode(batch).reshape(batch.shape) == GOLDEN[f"v{vocabulary}_batch_ids"]).all()


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_decoded_values_are_the_original_ones(vocabulary: int):
    tokenizer = BinTokenizer(uniform_edges(256), vocabulary)
    codes, values = GOLDEN[f"v{vocabulary}_dec_ids"], GOLDEN[f"v{vocabulary}_dec_actions"]
    ours = np.isin(codes, tokenizer.allowed_ids)  # the original takes any id for some action; here the others are refused
    assert set(codes[ours]) == set(tokenizer.allowed_ids)
    assert (tokenizer.decode(codes[ours], action_dimension=1)[:, 0] == values[ours]).all()


def test_the_edges_are_the_original_ones():
    assert (uniform_edges(256)[0] == GOLDEN["bins"]).all()
    tokenizer = BinTokenizer(uniform_edges(256), 32000)
    assert (tokenizer.decode(tokenizer.allowed_ids[:255], action_dimension=1)[:, 0] == GOLDEN["bin_centers"]).all()


def test_the_published_facts():
    tokenizer = BinTokenizer(uniform_edges(256), 32000)
    assert ids(tokenizer, np.array([-1.0, 0.0, 1.0, -7.0, 7.0])).tolist() == [31999, 31872, 31744, 31999, 31744]
    assert (tokenizer.allowed_ids[0], tokenizer.allowed_ids[-1]) == (31999, 31744)
    ends = tokenizer.decode(np.array([31999, 31745, 31744]), action_dimension=1)[:, 0]
    assert ends == pytest.approx([-0.996078, 0.996078, 0.996078], abs=1e-6)
    assert tokenizer.num_codes(4, 7) == 28


@pytest.mark.parametrize("name", TOKENIZERS)
@given(values=actions)
def test_decoding_is_within_half_an_interval(name: str, values: np.ndarray):
    tokenizer = TOKENIZERS[name]
    edges = np.broadcast_to(tokenizer.edges, (3, tokenizer.edges.shape[1]))
    decoded = tokenizer.decode(tokenizer.encode(values), action_dimension=3)
    interval = [np.clip(np.searchsorted(edges[a], values[:, a], "right") - 1, 0, len(edges[a]) - 2) for a in range(3)]
    half = np.stack([np.diff(edges[a])[interval[a]] / 2 for a in range(3)], axis=1)
    assert decoded.shape == values.shape
    assert (np.abs(decoded - values) <= half + 1e-12).all()
    if name == "uniform":
        assert (np.abs(decoded - values) <= 1 / 255 + 1e-12).all()


@pytest.mark.parametrize("name", TOKENIZERS)
@given(data=st.data())
def test_encoding_a_decoded_code_gives_it_back(name: str, data: st.DataObject):
    tokenizer = TOKENIZERS[name]
    own = tokenizer.allowed_ids[:-1].tolist()  # the last code is that of the value 1 alone and decodes as its neighbour
    codes = np.array(data.draw(st.lists(st.sampled_from(own), min_size=3, max_size=3)))
    assert (tokenizer.encode(tokenizer.decode(codes, action_dimension=3)) == codes).all()


@given(values=actions)
def test_larger_values_have_smaller_ids(values: np.ndarray):
    codes = ids(TOKENIZERS["uniform"], np.sort(values.ravel()))
    assert (np.diff(codes) <= 0).all()


def test_codes_are_time_major():
    tokenizer = TOKENIZERS["uniform"]
    values = np.array([[-1.0, 0.0, 1.0], [1.0, 0.0, -1.0]])
    assert tokenizer.encode(values).tolist() == [31999, 31872, 31744, 31744, 31872, 31999]


def test_quantile_bins_are_the_same_class_with_other_edges():
    uniform = uniform_bins(64, vocabulary_size=512, actions=Actions.of(SAMPLE))
    quantile = quantile_bins(64, vocabulary_size=512, actions=Actions.of(SAMPLE))
    assert type(uniform) is type(quantile) is BinTokenizer
    assert uniform.edges.shape == (1, 64)
    assert quantile.edges.shape == (3, 64)
    assert (quantile.edges[:, 0] == -1).all()
    assert (quantile.edges[:, -1] == 1).all()
    counts = [np.bincount(quantile.encode(SAMPLE).reshape(-1, 3)[:, axis])[512 - 63 :] for axis in range(3)]
    assert max(count.max() for count in counts) <= 2 * len(SAMPLE) / 63, "every interval holds about as many"
    near = np.abs(SAMPLE) < 0.3
    error = {
        name: np.abs(t.decode(t.encode(SAMPLE), action_dimension=3) - SAMPLE)[near].mean()
        for name, t in {"uniform": uniform, "quantile": quantile}.items()
    }
    assert error["quantile"] < 0.7 * error["uniform"]


def test_quantiles_are_those_of_what_counts():
    chunks = np.stack([SAMPLE, np.full_like(SAMPLE, 0.9)], axis=1)
    counted = np.stack([np.ones(SAMPLE.shape, bool), np.zeros(SAMPLE.shape, bool)], axis=1)
    assert (quantile_bins(64, vocabulary_size=512, actions=Actions(chunks, counted)).edges == TOKENIZERS["quantile"].edges).all()


@given(values=arrays(np.float64, 200, elements=st.sampled_from([-1.0, -0.25, 0.0, 0.1, 1.0])))
def test_values_that_occur_often_come_back_as_they_are(values: np.ndarray):
    """A gripper of 0 and 1 would else be decoded as 0.5 and 1."""
    column = values[:, None]
    tokenizer = quantile_bins(256, vocabulary_size=512, actions=Actions.of(column))
    often = np.isin(values, [value for value in values if (values == value).mean() > 0.05])
    decoded = tokenizer.decode(tokenizer.encode(column), action_dimension=1)
    assert np.abs(decoded - column)[often] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_contract_keeps_every_bit(name: str):
    tokenizer = TOKENIZERS[name]
    again = action_tokenizer(tokenizer.to_record())
    assert isinstance(again, ActionTokenizer)
    assert isinstance(again, BinTokenizer)
    assert (again.edges == tokenizer.edges).all()
    assert again.vocabulary_size == tokenizer.vocabulary_size


@pytest.mark.parametrize("deviation", [0.5, 3.0, 8.0, 100.0])
def test_soft_targets_are_distributions_around_the_code(deviation: float):
    rows = TOKENIZERS["uniform"].target_distributions(deviation)
    assert rows.shape == (256, 256)
    assert rows.sum(axis=1) == pytest.approx(1)
    assert (rows.argmax(axis=1) == np.arange(256)).all()
    middle = rows[128]
    assert middle[127] / middle[128] == pytest.approx(np.exp(-0.5 / deviation**2))


def test_hard_targets_are_one_hot():
    assert (TOKENIZERS["uniform"].target_distributions(0.0) == np.eye(256)).all()


def test_nan_is_refused():
    with pytest.raises(ValueError, match="NaN"):
        TOKENIZERS["uniform"].encode(np.array([[0.0, np.nan]]))
    with pytest.raises(ValueError, match="NaN or infinity"):
        quantile_edges(np.array([[0.0, np.inf]]), 8)


@pytest.mark.parametrize("code", [31743, 32000, 0, -100])
def test_an_id_that_is_no_action_code_is_refused(code: int):
    with pytest.raises(ValueError, match=rf"\[{code}\] are not action codes \(31744\.\.31999\)"):
        TOKENIZERS["uniform"].decode(np.array([31800, code]), action_dimension=2)


def test_codes_that_fill_no_whole_action_are_refused():
    with pytest.raises(ValueError, match="3 codes do not fill actions of 2"):
        TOKENIZERS["uniform"].decode(np.array([31800] * 3), action_dimension=2)


def test_another_number_of_dimensions_is_refused():
    with pytest.raises(ValueError, match="edges for 3 dimensions, the actions have 2"):
        TOKENIZERS["quantile"].encode(np.zeros((1, 2)))
    for dimension in (2, 4):
        with pytest.raises(ValueError, match=f"edges for 3 dimensions, the actions have {dimension}"):
            TOKENIZERS["quantile"].decode(np.array([511] * dimension), action_dimension=dimension)


def test_edges_that_decrease_or_leave_no_room_for_text_are_refused():
    with pytest.raises(ValueError, match="must not decrease"):
        BinTokenizer(np.array([[-1.0, 0.5, 0.4, 1.0]]), 32000)
    with pytest.raises(ValueError, match="no room"):
        BinTokenizer(uniform_edges(256), 256)
