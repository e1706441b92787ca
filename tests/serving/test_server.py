"""Server and client: what goes in comes out, and what goes wrong is said."""

import contextlib
import re
import subprocess
import sys
import threading
import urllib.error
import urllib.request
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from vla_tune.run.recorded import dark_observation
from vla_tune.schema import Observation, Policy
from vla_tune.serving import codec
from vla_tune.serving import connection as connection_module
from vla_tune.serving.answers import without_frames
from vla_tune.serving.client import RemotePolicy, ServerError, UnreachableError
from vla_tune.serving.codec import observation_in, request_of
from vla_tune.serving.limits import MAX_BYTES
from vla_tune.serving.protocol import contract_in
from vla_tune.serving.security import Insecure, Loopback, Tls


def seen(value: float = 0.01) -> Observation:
    image = np.full((64, 64, 3), 7, np.uint8)
    return Observation({"front": image}, np.array([value, 0, 0, 1], np.float32), "lift the red block")


def http(url: str, path: str, headers: dict[str, str] | None = None) -> tuple[int, str]:
    request = urllib.request.Request(url.replace("ws:", "http:") + path, headers=headers or {})
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_a_remote_policy_acts_as_the_local_one(served, echo, tiny_contract):
    with served(echo) as address:
        policy = RemotePolicy(address.url, contract=tiny_contract)
        assert isinstance(policy, Policy)
        actions = policy.act([seen(0.01), seen(0.02)])
        assert actions.shape == (2, 4, 4)
        assert np.array_equal(actions[:, 0, 0], np.array([0.01, 0.02], np.float32))
        actions[0] = 0  # it may be written
        policy.reset()
        assert policy.timing["round_trip_ms"] >= policy.timing["infer_ms"] > 0
        assert contract_in(policy.metadata) == tiny_contract
        policy.close()


def test_another_contract_is_refused_and_what_differs_is_named(served, echo, tiny_contract):
    with served(echo) as address:
        policy = RemotePolicy(address.url, contract=replace(tiny_contract, execute_steps=2))
        with pytest.raises(ValueError, match="another contract than the one given: execute_steps is 4, was 2"):
            policy.act([seen()])
        with pytest.raises(ValueError, match="has no adapter 'other': there are default"):
            RemotePolicy(address.url, adapter="other").act([seen()])


def test_an_openpi_client_gets_metadata_then_actions(served, echo):
    """No `endpoint`, as openpi-client 0.1.2 sends it."""
    with served(echo) as address, connect(address.url, compression=None, proxy=None) as connection:
        metadata = codec.decode(connection.recv(decode=False))
        assert metadata["action_horizon"] == 4
        assert metadata["image_keys"] == {"front": "observation/front"}
        for value in (0.01, 0.02):
            connection.send(codec.encode(request_of(seen(value))))
            reply = codec.decode(connection.recv(decode=False))
            assert reply["actions"][0, 0] == np.float32(value)
        assert reply["server_timing"]["prev_total_ms"] > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"observation/front": np.zeros((64, 64, 3), np.float32)}, "an image is uint8"),
        ({"observation/front": "picture"}, "an image is uint8"),
        ({"observation/state": np.zeros(3)}, "the state is 4 numbers"),
        ({"observation/state": np.array([np.nan, 0, 0, 0])}, "NaN or infinity"),
        ({"prompt": ""}, "the instruction"),
        ({"prompt": "red " * 600}, "prompt has 2,400 bytes, an instruction at most 2,048"),
        ({"prompt": "é" * 1100}, "prompt has 2,200 bytes"),
        ({"observation/front": np.zeros((1, 9, 3), np.uint8)}, "1 x 9: no side of a picture is more than 8 times the other"),
        ({"request_id": "one"}, "request_id is str 'one': it is a whole number"),
        ({"observation/wrist": np.zeros((1, 1, 3), np.uint8)}, r"unknown \['observation/wrist'\]"),
        ({"adapter": "other"}, "loaded are default"),
        ({"endpoint": "kill"}, "there are infer, reset"),
    ],
)
def test_a_bad_request_is_answered_and_the_connection_stays(served, echo, change, message):
    with served(echo) as address, connect(address.url, compression=None, proxy=None) as connection:
        connection.recv()
        connection.send(codec.encode({"endpoint": "infer"} | request_of(seen()) | change))
        reply = codec.decode(connection.recv(decode=False))
        assert reply["type"] == "error"
        with pytest.raises(AssertionError, match=message):
            raise AssertionError(reply["message"])
        connection.send(codec.encode(request_of(seen(0.03))))
        assert codec.decode(connection.recv(decode=False))["actions"][0, 0] == np.float32(0.03)


def test_a_failing_policy_is_an_id_for_the_client_and_a_traceback_for_the_log(served, caplog):
    def act(observations, names):
        raise RuntimeError("a secret path")

    with served(act) as address:
        with pytest.raises(ServerError, match=r"the policy failed on this observation; .* \([0-9a-f]{12}\)") as caught:
            RemotePolicy(address.url).act([seen()])
        with connect(address.url, compression=None, proxy=None) as connection:
            connection.recv()
            connection.send(codec.encode(request_of(seen())))
            assert isinstance(connection.recv(), str), "openpi's clients expect a text, and the end"
    assert "secret" not in str(caught.value)
    assert "a secret path" in caplog.text


def test_health_readiness_and_metrics(served, echo):
    with served(echo) as address:
        assert http(address.url, "/healthz") == (200, "OK\n")
        assert http(address.url, "/readyz") == (503, "warming up\n")
        address.server.ready = True
        assert http(address.url, "/readyz") == (200, "ready\n")
        RemotePolicy(address.url).act([seen(), seen(5.0)])
        status, text = http(address.url, "/metrics")
        assert status == 200
        assert "vla_inference_seconds_count 2.0" in text
        assert "vla_out_of_range_actions_total" in text


def test_a_key_is_asked_for_and_compared(served, echo):
    class Keyed(Loopback):
        def admits(self, authorization):
            return authorization == "Api-Key right"

    with served(echo, security=Keyed()) as address:
        assert RemotePolicy(address.url, api_key="right").act([seen()]).shape == (1, 4, 4)
        for key in (None, "wrong"):
            with pytest.raises(ServerError, match="HTTP 401"):
                RemotePolicy(address.url, api_key=key).act([seen()])
        assert http(address.url, "/metrics")[0] == 401
        assert http(address.url, "/healthz")[0] == 200


def test_who_may_be_reached(tmp_path, caplog):
    for host in ("localhost", "127.0.0.1", "::1"):
        Loopback().check(host)
    with pytest.raises(ValueError, match="choose security=tls with a key"):
        Loopback().check("0.0.0.0")
    Insecure().check("0.0.0.0")
    assert "whoever reaches 0.0.0.0" in caplog.text
    key = tmp_path / "key"
    key.write_text("short")
    with pytest.raises(ValueError, match="a key needs at least 16"):
        Tls(certificate=str(key), private_key=str(key), api_key_file=str(key))
    key.write_text("0123456789abcdef\n")
    choice = Tls(certificate=str(key), private_key=str(key), api_key_file=str(key))
    assert choice.admits("Api-Key 0123456789abcdef")
    assert not choice.admits("Api-Key 0123456789abcdeF")
    assert not choice.admits(None)
    with pytest.raises(ValueError, match=r"security.certificate=.*missing is no file"):
        Tls(certificate=str(tmp_path / "missing"), private_key=str(key), api_key_file=str(key))


def test_a_server_that_comes_back_is_found_again(served, echo):
    with served(echo) as address:
        policy = RemotePolicy(address.url, patience=5.0)
        policy.act([seen()])
    with pytest.raises(UnreachableError, match=r"cannot be reached within 0.2 s"):
        replace(policy, patience=0.2).act([seen()])
    with served(echo, port=address.port):
        assert policy.act([seen(0.5)])[0, 0, 0] == np.float32(0.5)
        policy.close()


def test_no_answer_in_time_is_said_and_the_late_one_is_not_taken_for_the_next(served):
    go, seconds = threading.Event(), 0.2

    def act(observations, names):
        go.wait(60)
        return [np.tile(observation.state.astype(np.float32), (4, 1)) for observation in observations]

    with served(act) as address:
        policy = RemotePolicy(address.url, timeout=seconds)
        with pytest.raises(UnreachableError, match=r"no answer within 0.2 s"):
            policy.act([seen(0.1)])
        go.set()
        policy.timeout = 60.0
        assert policy.act([seen(0.2)])[0, 0, 0] == np.float32(0.2)
        policy.close()


def test_clients_that_act_at_once_are_not_crossed(served, echo):
    found: dict[int, list[float]] = {}

    def client(number: int) -> None:
        policy = RemotePolicy(address.url)
        found[number] = [float(policy.act([seen(number + step / 64)])[0, 0, 0]) for step in range(20)]
        policy.close()

    with served(echo, rows=8) as address:
        threads = [threading.Thread(target=client, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert found == {number: [number + step / 64 for step in range(20)] for number in range(8)}


def test_the_client_needs_no_torch():
    code = "import sys, vla_tune.serving.client; assert 'torch' not in sys.modules, 'torch'"
    assert subprocess.run([sys.executable, "-c", code], timeout=300, check=False).returncode == 0


def test_over_tls_with_the_key(served, echo, tls):
    with served(echo, security=tls) as address:
        url = address.url.replace("ws:", "wss:")
        policy = RemotePolicy(url, certificate=tls.certificate, api_key="0123456789abcdef")
        assert policy.act([seen()]).shape == (1, 4, 4)
        policy.close()
        with pytest.raises(ServerError, match="HTTP 401"):
            RemotePolicy(url, certificate=tls.certificate, api_key="another-0123456789").act([seen()])
        with pytest.raises(ServerError, match="a certificate that is not trusted"):
            RemotePolicy(url, api_key="0123456789abcdef").act([seen()])


def test_a_message_that_is_too_large_ends_its_connection_only(served, echo):
    with served(echo) as address:
        policy = RemotePolicy(address.url)
        policy.act([seen()])
        with connect(address.url, compression=None, proxy=None) as connection:
            connection.recv()
            connection.send(bytes(MAX_BYTES + 1))
            with pytest.raises(ConnectionClosed) as caught:
                connection.recv()
            assert caught.value.rcvd is not None
            assert caught.value.rcvd.code == 1009
        assert policy.act([seen(0.4)])[0, 0, 0] == np.float32(0.4)
        policy.close()


def test_threads_of_one_client_take_turns(served, tiny_contract) -> None:
    """A controller resets the policy for the next episode while the last chunk of this one is still on its way."""

    busy, go = threading.Event(), threading.Event()

    def slow(observations, names):
        busy.set()
        go.wait(60)
        return [np.tile(observation.state.astype(np.float32), (4, 1)) for observation in observations]

    with served(slow) as address:
        remote = RemotePolicy(address.url)
        seen = dark_observation(tiny_contract)
        with ThreadPoolExecutor(2) as others:
            chunk = others.submit(remote.act, [seen])
            assert busy.wait(60)
            reset = others.submit(remote.reset)
            go.set()
            assert chunk.result(timeout=60).shape == (1, 4, 4)
            reset.result(timeout=60)
        remote.close()


@pytest.mark.parametrize(
    ("chunk", "found"),
    [
        (np.zeros((4, 5), np.float32), r"float32 \[4, 5\]"),
        (np.zeros((2, 4), np.float32), r"float32 \[2, 4\]"),
        (np.full((4, 4), np.nan, np.float32), "holds NaN or infinity"),
        (np.full((4, 4), -np.inf, np.float32), "holds NaN or infinity"),
    ],
    ids=str,
)
def test_a_chunk_that_is_none_is_a_failure_and_the_connection_goes_on(served, caplog, chunk, found):
    with served(lambda observations, names: [chunk]) as address:
        policy = RemotePolicy(address.url)
        for _ in range(2):
            with pytest.raises(ServerError, match="the policy failed on this observation"):
                policy.act([seen()])
        policy.reset()
        policy.close()
    assert re.search(f"the policy's chunk.*{found}", caplog.text)


def test_an_answer_says_which_question_it_answers(served, echo):
    """Errors too; and a client that numbers nothing is answered as before."""
    with served(echo) as address, connect(address.url, compression=None, proxy=None) as connection:
        assert codec.decode(connection.recv(decode=False))["request_id"] is True
        asked = [request_of(seen()) | {"endpoint": "infer", "request_id": 7}, {"endpoint": "kill", "request_id": 8}]
        for question in [*asked, {"endpoint": "reset", "request_id": 2**60}]:
            connection.send(codec.encode(question))
            assert codec.decode(connection.recv(decode=False))["request_id"] == question["request_id"]
        connection.send(codec.encode(request_of(seen())))
        assert "request_id" not in codec.decode(connection.recv(decode=False))


@pytest.mark.parametrize("headers", [{"Host": "evil.example"}, {"Origin": "http://localhost"}], ids=str)
def test_a_page_under_another_name_reads_nothing(served, echo, headers):
    with served(echo) as address:
        assert http(address.url, "/metrics", headers)[0] == 403
        assert http(address.url, "/healthz", headers)[0] == 200
        assert http(address.url, "/metrics", {"Host": "127.0.0.1"})[0] == 200


def test_a_page_in_a_browser_is_not_served(served, echo):
    with served(echo) as address, pytest.raises(InvalidStatus, match="403"):
        connect(address.url, origin="http://somewhere.example")


def drained(connection) -> None:
    """Hears it out, to its end."""
    while True:
        connection.recv(timeout=30)


FRAMES = {
    "pings": b"\x89\x80\0\0\0\0" * 200,
    "pongs": b"\x8a\x80\0\0\0\0" * 200,
    "pieces of a message": b"\x02\x81\0\0\0\0a" + b"\x00\x81\0\0\0\0a" * 200,
    "empty pieces": b"\x02\x80\0\0\0\0" + b"\x00\x80\0\0\0\0" * 200,
}


@pytest.mark.parametrize("frames", FRAMES.values(), ids=FRAMES)
def test_many_frames_at_once_end_their_connection_only(served, echo, frames):
    with served(echo) as address:
        with connect(address.url, compression=None, proxy=None) as connection:
            connection.recv()
            connection.socket.sendall(frames)
            with pytest.raises(ConnectionClosed) as caught:
                drained(connection)
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1002
        policy = RemotePolicy(address.url)
        assert policy.act([seen(0.4)])[0, 0, 0] == np.float32(0.4)
        policy.close()


def test_many_questions_after_a_plain_error_leave_nothing_behind(served, echo):
    with served(echo) as address:
        with contextlib.suppress(ConnectionClosed), connect(address.url) as connection:
            for _ in range(50):
                connection.send(codec.encode({"wrong": 1}))
            while True:
                connection.recv(timeout=60)
        pages = (http(address.url, "/metrics")[1] for _ in range(2000))
        assert any("vla_clients 0.0" in page for page in pages), "the connection is still there"


@pytest.mark.parametrize("name", ["Host", "Origin", "Authorization"])
def test_a_header_that_decides_and_comes_twice_is_refused_without_a_traceback(served, echo, caplog, name):
    with served(echo) as address:
        with pytest.raises(InvalidStatus) as caught:
            connect(address.url, proxy=None, additional_headers=[(name, "a"), (name, "b")]).__enter__()
        assert caught.value.response.status_code == 400
        assert b"came twice" in caught.value.response.body
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize(
    ("limit", "value", "frames"),
    [
        ("_PIECES", 20, b"\x02\x80\0\0\0\0" + b"\x00\x80\0\0\0\0" * 21),
        ("_UNREAD", -1, b"\x89\x80\0\0\0\0"),
    ],
    ids=["pieces without an end", "pings of who reads no pongs"],
)
def test_what_would_grow_for_ever_ends_its_connection_only(served, echo, monkeypatch, limit, value, frames):
    monkeypatch.setattr(connection_module, limit, value)
    with served(echo) as address:
        with connect(address.url, compression=None, proxy=None) as attacker:
            attacker.recv()
            attacker.socket.sendall(frames)
            with pytest.raises(ConnectionClosed):
                drained(attacker)
        policy = RemotePolicy(address.url)
        assert policy.act([seen(0.4)])[0, 0, 0] == np.float32(0.4)
        policy.close()


def test_an_error_that_waits_to_be_sent_holds_no_message():
    class Message:
        """What is read."""

    def read(message: Message) -> None:
        try:
            raise KeyError(message)
        except KeyError:
            raise codec.MessageError("no") from None

    message, kept = Message(), None
    held = weakref.ref(message)
    try:
        read(message)
    except codec.MessageError as error:
        kept = without_frames(error)
    del message
    assert held() is None
    assert str(kept) == "no"


@pytest.mark.parametrize("kind", ["<f2", "<f4", ">f8"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_a_state_that_no_float32_holds_is_refused_in_one_sentence(tiny_contract, kind, value):
    with np.errstate(over="ignore"):
        state = np.full(4, value).astype(kind)
    with pytest.raises(codec.MessageError, match="holds NaN or infinity"):
        observation_in(request_of(seen()) | {"observation/state": state}, tiny_contract)
