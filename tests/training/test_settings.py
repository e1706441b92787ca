import pytest

from vla_tune.training.settings import check_alone, check_number, check_settings

GOOD = {
    "steps": 4,
    "batch_size": 2,
    "gradient_accumulation": 1,
    "max_gradient_norm": 1.0,
    "validate_every": 2,
    "save_every": 2,
    "keep_last": 1,
    "workers": 0,
}


def test_good_ones_pass() -> None:
    check_settings(GOOD)
    check_settings(GOOD | {"max_gradient_norm": float("inf")})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"steps": "abc"}, r"training\.steps='abc' must be a whole number, at least 1\."),
        ({"steps": 1.5}, r"training\.steps=1\.5"),
        ({"batch_size": 0}, r"training\.batch_size=0"),
        ({"workers": -1}, r"training\.workers=-1 .* at least 0"),
        ({"save_every": True}, r"training\.save_every=True"),
        ({"keep_last": None}, r"training\.keep_last=None"),
        ({"max_gradient_norm": float("nan")}, r"training\.max_gradient_norm=nan must be a number above 0\."),
        ({"max_gradient_norm": 0}, r"training\.max_gradient_norm=0"),
        ({"nonsense": 1}, r"training\.nonsense is no setting: there are batch_size, "),
    ],
)
def test_others_are_named(changed: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_settings(GOOD | changed)


def test_a_missing_one_is_named() -> None:
    with pytest.raises(ValueError, match=r"training\.steps is missing"):
        check_settings({name: value for name, value in GOOD.items() if name != "steps"})


@pytest.mark.parametrize("value", ["abc", float("nan"), 0, -1, 1.5, float("inf"), True])
def test_a_rate_has_a_range(value) -> None:
    with pytest.raises(ValueError, match=r"optimizer\.learning_rate=.* must be a number above 0, at most 1\."):
        check_number("optimizer.learning_rate", value, most=1.0)


def test_one_of_several_processes_is_refused_before_it_waits(monkeypatch) -> None:
    check_alone()
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="WORLD_SIZE=2: one process trains on one device"):
        check_alone()
