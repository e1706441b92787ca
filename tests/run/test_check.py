"""`scripts/check.py` on a finished run, with frames as the data writes them."""

import json
from contextlib import suppress
from types import SimpleNamespace

import numpy as np

import vla_tune.run.check as module
from vla_tune.check.agreement import Recorded


def test_a_run_is_examined_with_frames_as_the_data_writes_them(run_of, frames, configuration, tiny_contract, monkeypatch) -> None:
    asked: list[Recorded] = []

    def examine(case):
        asked.append(case.recorded)
        return examined(case)

    examined = module.examine
    run = run_of("noise", adapter="lora_r16", seed=0)
    frames[0]["action_mask"][2:] = False  # behind the end of the episode
    monkeypatch.setattr(module, "recorded_frames", lambda data, *, count: frames[:count])
    monkeypatch.setattr(module, "build", lambda cfg: SimpleNamespace(statistics=tiny_contract.statistics))
    monkeypatch.setattr(module, "examine", examine)
    to = run.parent / "findings.json"
    with suppress(module.CheckFailedError):  # noise has learned nothing; which probes say so is not what is tested here
        module.check(configuration("check", f"run={run}", "frames=3", f"json={to}"))
    assert asked[0].mask.tolist()[0] == [True, True, False, False]
    assert asked[0].mask.shape == asked[0].actions.shape[:2]
    assert {"statistics", "adapter", "range"} <= {finding["probe"] for finding in json.loads(to.read_text())}
    assert np.isfinite(asked[0].actions).all()
