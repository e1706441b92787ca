"""OpenVLA's POST /act: its clients and OFT's are answered, and what is wrong is said."""

import asyncio
import json
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from base64 import b64decode, b64encode
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import pytest

from vla_tune.serving.metrics import Metrics
from vla_tune.serving.rest import MeanOfTraining, Rest
from vla_tune.serving.security import Loopback
from vla_tune.serving.server import PolicyServer
from vla_tune.serving.worker import Worker

IMAGE, STATE = np.full((64, 64, 3), 7, np.uint8), np.array([0.01, 0.02, 0.03, 1.0], np.float32)


def written(value: Any) -> Any:
    """As json_numpy writes an array."""
    array = np.asarray(value)
    return {"__numpy__": b64encode(array.tobytes()).decode(), "dtype": array.dtype.str, "shape": list(array.shape)}


def read(record: Any) -> Any:
    if isinstance(record, dict) and "__numpy__" in record:
        return np.frombuffer(b64decode(record["__numpy__"]), record["dtype"]).reshape(record["shape"])
    return [read(item) for item in record] if isinstance(record, list) else record


def asked(**content: Any) -> dict[str, Any]:
    return {"image": IMAGE, "instruction": "lift the red block", "state": STATE} | content


@dataclass(frozen=True)
class Front:
    """Who is called asks."""

    ask: Callable[..., tuple[int, Any]]
    worker: Worker
    port: int

    def __call__(self, *args: Any, **options: Any) -> tuple[int, Any]:
        return self.ask(*args, **options)

    def hang_up(self, body: Any) -> None:
        """Asks, and goes as soon as the question waits for the policy; returns when the server has seen it."""
        text = json.dumps(body, default=written).encode()
        head = f"POST /act HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n"
        with socket.create_connection(("localhost", self.port)) as connection:
            connection.sendall(head.encode() + text)
            while not self.worker.waiting:
                time.sleep(0)
        while self.worker.waiting:
            time.sleep(0)


@pytest.fixture
def front(tiny_contract, echo):
    """Serves until the block ends; the function asks."""

    @contextmanager
    def run(act=echo, *, security=None, **options):
        server = PolicyServer(Worker(act, rows=4, seconds=60.0), {"default": tiny_contract}, security or Loopback(), Metrics())
        loop, stop, started = asyncio.new_event_loop(), asyncio.Event(), threading.Event()
        port: list[int] = []

        async def main() -> None:
            async with server.serving("localhost", 0), Rest(0, **options).serving(server, "localhost") as found:
                port.append(found)
                started.set()
                await stop.wait()

        thread = threading.Thread(target=lambda: asyncio.run(main(), loop_factory=lambda: loop))
        thread.start()
        assert started.wait(60)

        def ask(
            body: Any, *, path: str = "/act", headers: dict[str, str] | None = None, context=None, timeout: float = 60.0
        ) -> tuple[int, Any]:
            text = body if isinstance(body, bytes) else json.dumps(body, default=written).encode()
            scheme = "http" if context is None else "https"
            request = urllib.request.Request(
                f"{scheme}://localhost:{port[0]}{path}",
                text,
                {"Content-Type": "application/json"} | (headers or {}),
            )
            try:
                with urllib.request.urlopen(request, timeout=timeout, context=context) as reply:
                    return reply.status, read(json.loads(reply.read()))
            except urllib.error.HTTPError as error:
                return error.code, error.read().decode()

        try:
            yield Front(ask, server.worker, port[0])
        finally:
            loop.call_soon_threadsafe(stop.set)
            thread.join(60)

    return run


def test_a_client_of_openvla_gets_one_action(front):
    with front() as ask:
        status, action = ask(asked())
    assert status == 200
    assert np.array_equal(action, STATE)


def test_a_client_of_oft_gets_the_chunk(front):
    with front() as ask:
        _, actions = ask({"full_image": IMAGE, "instruction": "lift the red block", "state": STATE})
    assert len(actions) == 4
    assert all(np.array_equal(action, STATE) for action in actions)


def test_a_request_inside_a_text_is_answered_by_a_text(front):
    with front() as ask:
        _, text = ask({"encoded": json.dumps(asked(), default=written)})
    assert np.array_equal(read(json.loads(text)), STATE)


def test_the_statistics_that_a_client_names_must_be_the_policys(front, tiny_contract):
    with front() as ask:
        assert ask(asked(unnorm_key=tiny_contract.statistics.dataset))[0] == 200
        status, said = ask(asked(unnorm_key="bridge_orig"))
    assert status == 422
    assert "unnorm_key 'bridge_orig': this policy has the statistics of" in said


def test_a_state_may_be_a_plain_list_of_numbers(front):
    with front() as ask:
        status, action = ask(asked(state=[0.5, -1, 0.25, 1.0]))
    assert status == 200
    assert np.array_equal(action, np.array([0.5, -1, 0.25, 1.0], np.float32))


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 403),
        ({"Host": "evil.example:8777"}, 403),
        ({"Host": "localhost.evil.example"}, 403),
        ({"Host": "[::1"}, 403),
        ({"Origin": "http://localhost:8777"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "127.0.0.1:8777"}, 200),
        ({"Host": "[::1]:8777"}, 200),
        ({"Host": "LOCALHOST"}, 200),
        ({"Content-Encoding": "gzip"}, 415),
        ({"Content-Encoding": "identity"}, 415),
    ],
    ids=str,
)
def test_who_asks_as_a_page_does_or_for_another_host_is_refused(front, headers, status):
    with front() as ask:
        assert ask(asked(), headers=headers)[0] == status


def test_a_path_that_there_is_not_is_said(front):
    with front() as ask:
        status, said = ask(asked(), path="/other")
    assert status == 404
    assert "there is POST /act" in said


def test_a_state_that_is_not_sent_is_a_mistake_unless_said_otherwise(front, tiny_contract):
    without = {key: value for key, value in asked().items() if key != "state"}
    with front() as ask:
        status, said = ask(without)
    assert status == 422
    assert "state is missing: 4 numbers in robot units" in said
    with front(missing_state=MeanOfTraining()) as ask:
        _, action = ask(without)
    assert np.allclose(action, tiny_contract.statistics.state.mean)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "no JSON"),
        (b"[1]", "a JSON object, not a list"),
        (b"[" * 900, "no JSON"),
        (asked(instruction=3), "prompt is int '3'"),
        (asked(image=[1, 2]), "image is a list: write pictures as json_numpy does"),
        (asked(image=IMAGE.tolist()), "write pictures as json_numpy does"),
        (asked(state=[0.1, 0.2, 0.3]), "the state is 4 numbers"),
        (asked(state=[0.1, 0.2, 0.3, "1"]), "the state is 4 numbers"),
        (asked(state=[0.1, 0.2, 0.3, True]), "the state is 4 numbers"),
        (asked(state=[[0.1, 0.2], [0.3, 1.0]]), "the state is 4 numbers"),
        (asked(state=[0.1, 0.2, 0.3, 1e999]), "Infinity is no JSON"),
        (asked(instruction="red " * 600), "an instruction at most 2,048"),
        (b'{"instruction": "\\ud800"}', "missing"),
        (asked(instruction="\ud800"), "half a character"),
        (b'{"image": 1, "image": 2}', "the same key twice"),
        (b"{" + b",".join(b'"%d":0' % number for number in range(30_000)) + b"}", "at most 20,000 values"),
        (asked(image=IMAGE.astype(np.float32)), "uint8 [height width 3]"),
        (asked(wrist=IMAGE), "unknown ['wrist']"),
        (asked(adapter="other"), "adapter 'other': loaded are default"),
        (asked(state={"__numpy__": "!", "dtype": "<f4", "shape": [4]}), "is base64"),
        (asked(state={"__numpy__": "AAAA", "dtype": "|O", "shape": [4]}), "dtype '|O'"),
        (asked(state={"__numpy__": "AAAA", "dtype": "<f4", "shape": [-1]}), "whole numbers"),
        (asked(state=np.full(4, np.nan, np.float32)), "holds NaN"),
        ({"encoded": 5}, "JSON text, not a int"),
        (asked(prompt="again"), "'prompt' says again what another key says"),
        (asked(full_image=IMAGE), "says again what another key says"),
        (asked(adapter=IMAGE), "adapter"),
        (b'{"image": [' + b"[]," * 2000 + b"[]]}", "at most 1,000 lists and objects"),
    ],
    ids=str,
)
def test_what_is_wrong_is_said(front, body, message):
    with front() as ask:
        status, said = ask(body)
        assert ask(asked())[0] == 200
    assert status == 422
    assert message in json.loads(said)["message"]


def test_what_a_policy_raises_stays_in_the_log(front, caplog):
    def act(observations, names):
        raise RuntimeError("a secret path")

    with front(act) as ask:
        status, said = ask(asked())
    assert status == 500
    assert "secret" not in said
    assert json.loads(said)["id"] in caplog.text


def test_the_key_and_tls_are_those_of_the_server(front, tls):
    context = ssl.create_default_context(cafile=tls.certificate)
    with front(security=tls) as ask:
        assert ask(asked(), context=context)[0] == 401
        assert ask(asked(), headers={"Authorization": "Api-Key 0123456789abcdef"}, context=context)[0] == 200


def test_the_content_says_that_it_is_json_and_in_no_other_letters(front):
    with front() as ask:
        assert ask(asked(), headers={"Content-Type": "text/plain"})[0] == 415
        assert ask(asked(), headers={"Content-Type": "application/json; charset=punycode"})[0] == 200
        assert ask(asked(), headers={"Content-Type": "application/json; charset=nonsense"})[0] == 200


def test_who_has_hung_up_is_not_acted_for(front):
    busy, go, passes = threading.Event(), threading.Event(), []

    def act(observations, names):
        passes.append(len(observations))
        busy.set()
        go.wait(60)
        return [np.zeros((4, 4), np.float32)] * len(observations)

    with front(act) as ask, ThreadPoolExecutor(1) as pool:
        first = pool.submit(ask, asked())
        assert busy.wait(60)
        for _ in range(10):
            ask.hang_up(asked())
        go.set()
        assert first.result()[0] == 200
        assert ask(asked())[0] == 200
    assert passes == [1, 1]


def test_more_requests_than_are_taken_are_sent_away(front):
    go = threading.Event()

    def act(observations, names):
        go.wait(60)
        return [np.zeros((4, 4), np.float32)] * len(observations)

    with front(act) as ask, ThreadPoolExecutor(80) as pool:
        asking = [pool.submit(ask, asked()) for _ in range(80)]
        sent_away = [one.result()[0] for one in islice(as_completed(asking, timeout=60), 16)]
        assert set(sent_away) == {503}
        go.set()
        statuses = [one.result()[0] for one in asking]
    assert statuses.count(503) == 16
    assert statuses.count(200) == 64


def test_too_large_a_request_is_refused(front):
    with front() as ask:
        status, _ = ask(b" " * (23 * 2**20))
        assert ask(asked())[0] == 200
    assert status == 413


def test_an_open_address_is_refused(tiny_contract, echo):
    async def main() -> None:
        server = PolicyServer(Worker(echo, rows=1, seconds=1.0), {"default": tiny_contract}, Loopback(), Metrics())
        async with Rest(0).serving(server, "0.0.0.0"):
            pass

    with pytest.raises(ValueError, match=r"host=0.0.0.0 is reachable from other machines"):
        asyncio.run(main())
