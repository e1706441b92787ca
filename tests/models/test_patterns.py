import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_tune.models.patterns import counted, matching_names

NAMES = [f"language.layers.{layer}.attention.{leaf}" for layer in range(11) for leaf in ("q_proj", "v_proj")] + ["vision.q_proj"]


@given(st.sampled_from(NAMES), st.integers(0, 4))
def test_a_pattern_is_the_end_of_a_name_in_whole_components(name: str, dropped: int):
    components = name.split(".")
    end = ".".join(components[min(dropped, len(components) - 1) :])
    expected = [other for other in NAMES if other == end or other.endswith(f".{end}")]
    assert matching_names(NAMES, [end]) == expected
    assert name in expected


def test_part_of_a_component_does_not_match():
    with pytest.raises(ValueError, match="nothing"):
        matching_names(NAMES, ["proj"])
    assert matching_names(NAMES, ["1.attention.q_proj"]) == ["language.layers.1.attention.q_proj"]


def test_a_star_stands_for_anything_and_a_tower_limits_the_search():
    assert matching_names(NAMES, ["*"]) == NAMES
    assert matching_names(NAMES, ["*_proj"], within=["vision"]) == ["vision.q_proj"]
    assert matching_names(NAMES, ["language.layers.1*.v_proj"]) == [
        "language.layers.1.attention.v_proj",
        "language.layers.10.attention.v_proj",
    ]


def test_every_pattern_must_match_and_the_nearest_names_are_listed():
    with pytest.raises(
        ValueError, match=r"'q_prj' matches nothing within language; the nearest.*language\.layers\.0\.attention\.q_proj"
    ):
        matching_names(NAMES, ["v_proj", "q_prj"], within=["language"])
    with pytest.raises(ValueError, match="no pattern"):
        matching_names(NAMES, [])


def test_numbers_from_the_end_are_counted_among_the_names():
    assert matching_names(NAMES, ["layers.-1.*"]) == NAMES[20:22]
    assert matching_names(NAMES, ["layers.-11.attention.v_proj"]) == [NAMES[1]]
    assert counted(["q_proj", "layers.-2.*"], NAMES) == ["q_proj", "layers.9.*"]
    with pytest.raises(ValueError, match=r"there are 11 of 'layers', counted from -1"):
        matching_names(NAMES, ["layers.-12.*"])


def test_a_pattern_that_would_be_tried_for_hours_is_refused():
    with pytest.raises(ValueError, match="has 40 stars, at most 4 are read"):
        matching_names(["a" * 200], ["a*" * 40 + "b"])
