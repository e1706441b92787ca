import pytest

from vla_tune.bench.control_suite import ControlSuite
from vla_tune.execution import OpenLoop, TemporalEnsemble


@pytest.mark.ci  # a whole suite: what it is made of has tests of its own
def test_it_measures_the_drift_and_every_execution_with_and_without_safety():
    suite = ControlSuite(
        executions={"open_loop": OpenLoop(), "ensemble": TemporalEnsemble(decay=0.01)},
        latencies=[0.05],
        limits={"low": -1.0, "high": 1.0, "step": 0.05, "velocity": 2.0, "acceleration": 10.0, "jerk": 5000.0},
        hz=30,
        horizon=16,
        bias=0.1,
        seconds=1.5,
        drift_hz=50,
        drift_seconds=1.0,
        seed=0,
    )
    rows = suite.rows()
    assert rows[0]["name"] == "50 Hz for 1 s"
    assert rows[0]["ticks"] + rows[0]["late"] == pytest.approx(50, abs=1)
    played = {(row["name"], row["safety"]): row for row in rows[1:]}
    assert played.keys() == {(name, safety) for name in suite.executions for safety in ("with", "without")}
    for (_, safety), row in played.items():
        assert (row["max_step_mrad"] <= 50 + 1e-6) == (safety == "with"), row  # chunks are off by 100 mrad
        assert (row["clamped_share"] > 0) == (safety == "with")
        assert row["chunks"] > 1
    assert "max_step_mrad: " in suite.report(rows)
