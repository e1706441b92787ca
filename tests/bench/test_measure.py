"""Timing, by clocks that only move when told to."""

from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_tune.bench.measure import Reading, Row, Together, Work, measure, read_clocks

DURATION = st.floats(0.001, 1000)


class Clocks:
    """Stand still but for what `pass_` adds."""

    def __init__(self) -> None:
        self.now = Reading(0.0, 0.0)

    def __call__(self) -> Reading:
        return self.now

    def pass_(self, wall: float, cpu: float) -> None:
        self.now = Reading(self.now.wall + wall, self.now.cpu + cpu)


def scripted(durations: list[list[tuple[float, float]]], *, amount: int = 10) -> list[Row]:
    """Rows of works whose round r takes `durations[work][r]`; the untimed first time takes a year."""
    clocks = Clocks()

    def work(index: int) -> Work:
        left = iter([(3e7, 3e7), *durations[index]])

        def do(_: None) -> int:
            clocks.pass_(*next(left))
            return amount

        return Work(name=f"work {index}", unit="things", do=do)

    works = [work(index) for index in range(len(durations))]
    return measure("suite", works, repetitions=len(durations[0]), clocks=clocks)


def rounds(works: int, repetitions: int) -> st.SearchStrategy[list[list[tuple[float, float]]]]:
    one = st.lists(st.tuples(DURATION, DURATION), min_size=repetitions, max_size=repetitions)
    return st.lists(one, min_size=works, max_size=works)


@given(rounds(2, 3))
def test_rates_are_amounts_over_times(durations: list[list[tuple[float, float]]]):
    for row, column in zip(scripted(durations), durations, strict=True):
        for name, clock in (("per_second", 0), ("per_cpu_second", 1)):
            rates = [10 / times[clock] for times in column]
            assert row[name] == pytest.approx(median(rates), rel=1e-3)
            assert row[f"{name}_low"] == pytest.approx(min(rates), rel=1e-3)
            assert row[f"{name}_high"] == pytest.approx(max(rates), rel=1e-3)
        assert row["wall_seconds"] == pytest.approx(median(wall for wall, _ in column), rel=1e-3)
        assert (row["amount"], row["repetitions"]) == (10, 3)


@given(rounds(2, 3), st.lists(st.floats(0.1, 10), min_size=3, max_size=3))
def test_what_slows_a_whole_round_leaves_the_ratios_alone(durations: list[list[tuple[float, float]]], factors: list[float]):
    slowed = [[(wall * f, cpu * f) for (wall, cpu), f in zip(column, factors, strict=True)] for column in durations]
    for row, other in zip(scripted(durations), scripted(slowed), strict=True):
        for name in (name for name in row if name.startswith("ratio_")):
            assert row[name] == pytest.approx(other[name], rel=1e-2)


def test_twice_as_fast_is_a_ratio_of_two():
    first, second = scripted([[(2.0, 4.0)] * 3, [(1.0, 1.0)] * 3])
    assert [first[name] for name in ("ratio_per_second", "ratio_per_cpu_second")] == [1.0, 1.0]
    assert [second[name] for name in ("ratio_per_second", "ratio_per_cpu_second")] == pytest.approx([2.0, 4.0])
    assert first["baseline"] == second["baseline"] == "work 0"


def test_works_take_turns_and_preparation_is_not_timed():
    clocks, log = Clocks(), []

    def work(name: str) -> Work:
        def prepare() -> str:
            clocks.pass_(100.0, 100.0)
            return f"ready for {name}"

        def do(prepared: str) -> int:
            assert prepared == f"ready for {name}"
            log.append(name)
            clocks.pass_(1.0, 1.0)
            return 1

        return Work(name=name, unit="things", do=do, prepare=prepare)

    rows = measure("suite", [work("a"), work("b")], repetitions=3, clocks=clocks)
    assert log == ["a", "b"] * 4
    assert [row["per_second_low"] for row in rows] == [1.0, 1.0]


def test_only_equal_units_are_compared():
    clocks = Clocks()

    def do(_: None) -> int:
        clocks.pass_(1.0, 1.0)
        return 1

    works = [Work(name=name, unit=unit, do=do) for name, unit in (("a", "steps"), ("b", "episodes"), ("c", "episodes"))]
    assert [row["baseline"] for row in measure("suite", works, repetitions=1, clocks=clocks)] == ["a", "b", "b"]


def test_the_clocks_of_this_process_move():
    before = read_clocks()
    sum(range(200_000))
    after = read_clocks()
    assert after.wall > before.wall
    assert after.cpu > before.cpu


def test_nothing_to_measure_is_refused():
    with pytest.raises(ValueError, match="repetitions=0: at least 1"):
        measure("suite", [], repetitions=0)
    with pytest.raises(ValueError, match=r"'work 0' did 10 things in 0.0 CPU s: too little to measure"):
        scripted([[(0.0, 0.0)]])
    with pytest.raises(ValueError, match="did 0 things"):
        scripted([[(1.0, 1.0)]], amount=0)


def test_suites_follow_each_other():
    class Fixed:
        def __init__(self, *names: str) -> None:
            self.names = names

        def rows(self) -> list[Row]:
            return [{"work": name} for name in self.names]

    together = Together({"first": Fixed("a", "b"), "second": Fixed("c")})
    assert [row["work"] for row in together.rows()] == ["a", "b", "c"]
