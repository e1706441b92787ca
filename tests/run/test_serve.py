"""scripts/serve.py: what a robot gets over the wire is what the local policy does."""

import asyncio
import os
import signal
import socket
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pytest

from vla_tune.check.kept import Kept
from vla_tune.data.recorded import observation_in
from vla_tune.run import serve as module
from vla_tune.run.objects import build, load_policy
from vla_tune.run.serve import _policies, _serve, serve
from vla_tune.serving.client import RemotePolicy
from vla_tune.serving.metrics import Metrics
from vla_tune.serving.rest import MeanOfTraining, Refused, Rest
from vla_tune.serving.security import Loopback
from vla_tune.serving.server import PolicyServer
from vla_tune.serving.worker import Worker


def test_over_the_wire_it_acts_as_in_this_process(run_of, frames, tiny_contract, configuration, monkeypatch):
    run = run_of("one", adapter="lora_r2", seed=1)
    seen = [observation_in(frame, tiny_contract.embodiment) for frame in frames]
    local = load_policy(run, rows=2, device="cpu").policy
    served = _policies(configuration("serve", f"policy={run}", "rows=2", "device=cpu"))
    server = PolicyServer(Worker(served.act, rows=2, seconds=30.0), served.contracts, Loopback(), Metrics())
    found: dict[str, np.ndarray] = {}
    asked: list[Future[None]] = []

    def client(url: str) -> None:
        try:
            policy = RemotePolicy(url, contract=tiny_contract)
            found["actions"] = policy.act(seen)
            policy.close()
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    with ThreadPoolExecutor(1) as pool:

        def say(line: str) -> None:
            """The first line that is shown says where to ask."""
            asked.append(pool.submit(client, line.split()[-1]))

        monkeypatch.setattr(module, "say", say)
        asyncio.run(asyncio.wait_for(_serve(server, "localhost", 0), 60))
    (only,) = asked
    only.result()
    with ThreadPoolExecutor(1) as pool:  # as the server does: what the tests' own thread multiplies with is its own
        assert np.array_equal(found["actions"], pool.submit(local.act, seen).result())


def test_several_runs_are_named_by_their_folders(run_of, frames, tiny_contract, configuration):
    runs = [run_of(name, adapter="lora_r2", seed=seed) for seed, name in enumerate(("one", "other"))]
    served = _policies(configuration("serve", f"policy=[{','.join(map(str, runs))}]", "rows=2", "device=cpu"))
    assert list(served.contracts) == ["one", "other"]
    seen = [observation_in(frame, tiny_contract.embodiment) for frame in frames[:2]]
    chunks = served.act([seen[0], seen[0]], ["one", "other"])
    assert not np.array_equal(chunks[0], chunks[1])
    with pytest.raises(ValueError, match="no policy is named"):
        _policies(configuration("serve", "policy=[]"))


def test_a_run_joins_only_if_it_does_what_it_did_in_training(run_of, frames, tiny_contract, configuration):
    one, other = run_of("one", adapter="lora_r2", seed=1), run_of("other", adapter="lora_r4", seed=2)
    served = _policies(configuration("serve", f"policy=[{one}]", f"adapters={one.parent}", "device=cpu"))
    with pytest.raises(ValueError, match=r"other holds no probe\.safetensors"):
        served.adapters.add("other")
    seen = [observation_in(frame, tiny_contract.embodiment) for frame in frames[:2]]
    chunks = load_policy(other, rows=1, device="cpu").policy.act(seen)
    Kept(seen, np.ascontiguousarray(-chunks)).save(other)
    with pytest.raises(ValueError, match=r"'other': .* not the function that was trained"):
        served.adapters.add("other")
    assert list(served.contracts) == ["one"]
    Kept(seen, chunks).save(other)
    served.adapters.add("other")
    assert list(served.contracts) == ["one", "other"]


def test_runs_of_one_folder_join_and_leave(run_of, configuration):
    one, other = run_of("one", adapter="lora_r2", seed=1), run_of("other", adapter="lora_r4", seed=2)
    cfg = configuration("serve", f"policy=[{one}]", f"adapters={one.parent}", "device=cpu", "unproved=true")
    served = _policies(cfg)
    served.adapters.add(other.name)
    assert list(served.contracts) == ["one", "other"]
    served.adapters.remove("one")
    assert list(served.contracts) == ["other"]
    for name in ("../one", str(one), "", "base"):
        with pytest.raises(ValueError, match="holds one, other"):
            served.adapters.add(name)
    with pytest.raises(ValueError, match="so that others can join"):
        _policies(configuration("serve", f"policy={one}", f"adapters={one.parent}"))
    fixed = _policies(configuration("serve", f"policy=[{one}]", "device=cpu")).adapters
    with pytest.raises(ValueError, match="started without a folder"):
        fixed.add("other")


def test_a_second_front_is_a_choice(configuration):
    assert "rest" not in configuration("serve", "policy=nowhere")
    for name, missing in (("openvla", Refused), ("without_state", MeanOfTraining)):
        rest = build(configuration("serve", "policy=nowhere", f"rest={name}").rest)
        assert isinstance(rest, Rest)
        assert isinstance(rest.missing_state, missing)


def test_a_port_in_use_is_named_before_anything_is_loaded(configuration, monkeypatch):
    monkeypatch.setattr(module, "_policies", lambda cfg: pytest.fail("it was loaded"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"port={port} of host=localhost cannot be had .*: stop what listens there"):
            serve(configuration("serve", "policy=nowhere", f"port={port}"))


def test_an_open_address_is_refused_before_anything_is_loaded(configuration, monkeypatch):
    monkeypatch.setattr(module, "_policies", lambda cfg: pytest.fail("it was loaded"))
    with pytest.raises(ValueError, match=r"host=0.0.0.0 is reachable from other machines"):
        serve(configuration("serve", "policy=nowhere", "host=0.0.0.0"))
