"""A client believes its server nothing: what is no answer to its question, or no chunk of its contract, is refused."""

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf
from websockets.sync.server import ServerConnection, serve

from vla_tune.run.acting import acting
from vla_tune.run.recorded import dark_observation
from vla_tune.serving import codec
from vla_tune.serving.client import RemotePolicy, ServerError, UnreachableError
from vla_tune.serving.protocol import chunk_shape, metadata_of

type Replies = Callable[[dict[str, Any]], list[bytes | str]]


@pytest.fixture
def answering(tiny_contract):
    """A server that sends whatever `replies` says to each question; `announced` changes what it says first."""

    @contextmanager
    def run(replies: Replies, **announced: Any) -> Iterator[RemotePolicy]:
        def handle(connection: ServerConnection) -> None:
            connection.send(codec.encode(metadata_of({"default": tiny_contract}) | announced))
            for message in connection:
                for reply in replies(codec.decode(message)):  # pyright: ignore[reportArgumentType]
                    connection.send(reply)

        with serve(handle, "127.0.0.1", 0, compression=None) as server:
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            policy = RemotePolicy(f"ws://127.0.0.1:{server.socket.getsockname()[1]}", timeout=60.0)
            try:
                yield policy
            finally:
                policy.close()
                server.shutdown()
                thread.join(60)

    return run


def reply(question: dict[str, Any], **changes: Any) -> bytes:
    """As our server answers, with the first number of the state as every action."""
    actions = np.full((4, 4), question["observation/state"][0], np.float32)
    named = {name: question[name] for name in ("request_id",) if name in question}
    return codec.encode({"actions": actions, "server_timing": {"infer_ms": 1.0, "queue_ms": 0.0}} | named | changes)


def asked(policy: RemotePolicy, contract, value: float) -> float:
    seen = dark_observation(contract)
    seen.state[0] = value
    return float(policy.act([seen])[0, 0, 0])


def test_a_reply_that_comes_twice_is_nobody_elses_answer(answering, tiny_contract):
    with answering(lambda question: [reply(question)] * (2 if question["observation/state"][0] == 1 else 1)) as policy:
        assert asked(policy, tiny_contract, 0.5) == 0.5
        assert asked(policy, tiny_contract, 1.0) == 1.0
        with pytest.raises(UnreachableError, match=r"that nobody asked for|answered another question"):
            asked(policy, tiny_contract, 0.25)
        assert asked(policy, tiny_contract, 0.125) == 0.125


@pytest.mark.parametrize("number", [{"request_id": 1000}, {"request_id": None}, {"request_id": "1"}])
def test_the_answer_to_another_question_ends_the_connection(answering, tiny_contract, number):
    with answering(lambda question: [reply(question, **number)]) as policy:
        with pytest.raises(UnreachableError, match="answered another question"):
            asked(policy, tiny_contract, 0.5)
        assert policy._connection is None


def test_a_server_that_numbers_nothing_is_asked_without_numbers(answering, tiny_contract):
    numbered: list[bool] = []

    def replies(question: dict[str, Any]) -> list[bytes | str]:
        numbered.append("request_id" in question)
        return [reply(question)]

    with answering(replies, request_id=False) as policy:
        assert asked(policy, tiny_contract, 0.5) == 0.5
    assert numbered == [False]


def test_what_a_server_sends_unasked_is_not_taken_for_an_answer(answering, tiny_contract):
    """The older kind of server: there is no number that could tell."""
    with answering(lambda question: [reply(question)] * 2, request_id=False) as policy:
        assert asked(policy, tiny_contract, 0.5) == 0.5
        extra = policy._connection.recv(timeout=60)  # it is there now, and is put back as if it were still to be read
        policy._connection.recv = lambda timeout: extra
        with pytest.raises(UnreachableError, match="that nobody asked for"):
            asked(policy, tiny_contract, 0.25)
        assert asked(policy, tiny_contract, 0.125) == 0.125


@pytest.mark.parametrize(
    ("actions", "found"),
    [
        (np.zeros((30_000, 4), np.float32), r"float32 \[30000, 4\]"),
        (np.zeros((4, 5), np.float32), r"float32 \[4, 5\]"),
        (np.zeros((4, 4), np.int32), r"int32 \[4, 4\]"),
        (np.full((4, 4), np.nan, np.float32), "not finite numbers"),
        ([[0.0] * 4] * 4, "list"),
        (None, "NoneType"),
    ],
    ids=str,
)
def test_a_chunk_that_is_none_of_the_contract_is_refused(answering, tiny_contract, actions, found):
    with (
        answering(lambda question: [reply(question, actions=actions)]) as policy,
        pytest.raises(ServerError, match=rf"the server's actions are .*{found}"),
    ):
        asked(policy, tiny_contract, 0.5)


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        (b"\xdd\x00\x01\x86\x9f" + b"\x80" * 99_999, "cannot be read"),
        (b"\xc1", "cannot be read"),
        (b"\x90", "a map, not a list"),
        ("no", "^no$"),
    ],
)
def test_what_is_no_answer_is_an_error_in_one_sentence(answering, tiny_contract, sent, message):
    with answering(lambda question: [sent]) as policy, pytest.raises(ServerError, match=message):
        asked(policy, tiny_contract, 0.5)


@pytest.mark.parametrize(
    ("announced", "message"),
    [
        ({"adapters": 5}, "has no adapter 'default': there are a int"),
        ({"adapters": ["default"]}, "has no adapter 'default': there are a list"),
        ({"adapters": None}, "has no adapter"),
        ({"default_adapter": [1]}, "has no adapter"),
        ({"default_adapter": {}}, "has no adapter"),
        ({"adapters": {f"{number:099}": "" for number in range(200)}}, "^.{,2000}$"),
        ({"adapters": {"default": 5}}, "acts by another contract"),
        ({"chunks": {"default": [400, 4]}}, r"announces chunks of \[400, 4\], the contract \[4, 4\]"),
        ({"chunks": 5, "action_horizon": "4"}, "does not announce the shape"),
    ],
    ids=str,
)
def test_a_server_that_lies_about_itself_is_refused_in_one_sentence(answering, tiny_contract, announced, message):
    with answering(lambda question: [reply(question)], **announced) as policy:
        policy.contract = tiny_contract
        with pytest.raises(ValueError, match=message):
            asked(policy, tiny_contract, 0.5)
        assert policy._connection is None


def test_a_server_that_reads_nothing_keeps_no_one_who_sends(answering, tiny_contract):
    with answering(lambda question: [reply(question)]) as policy:
        assert asked(policy, tiny_contract, 0.5) == 0.5
        waits = policy._connection.socket.getsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, 16)
        assert struct.unpack("@ll", waits) == (60, 0)
        assert policy._connection.close_timeout == 1.0


def test_an_adapter_with_another_contract_than_the_one_announced_drives_nothing(served, echo, tiny_contract):
    contracts = {"default": tiny_contract, "other": replace(tiny_contract, execute_steps=2)}
    remote = dict.fromkeys(("contract", "api_key_file", "certificate", "jpeg_quality"))
    with served(echo, contracts=contracts) as address:
        for name, refused in (("default", False), (None, False), ("other", True)):
            cfg = OmegaConf.create({"policy": address.url, "remote": remote | {"adapter": name, "timeout": 60.0, "patience": 60.0}})
            with (
                pytest.raises(ValueError, match="acts by another contract") if refused else nullcontext(),
                acting(cfg) as (policy, _),
            ):
                assert policy.act([dark_observation(tiny_contract)]).shape == (1, 4, 4)


def test_the_shape_of_a_chunk_is_that_of_the_adapter(tiny_contract):
    said = metadata_of({"default": tiny_contract})
    assert chunk_shape(said, None) == (4, 4)
    assert chunk_shape({key: value for key, value in said.items() if key != "chunks"}, None) == (4, 4)
    for wrong in ({"chunks": {}}, {"chunks": {"default": [0, 4]}}, {"chunks": {"default": [4]}}, {"chunks": {"default": ["4", 4]}}):
        with pytest.raises(ValueError, match="does not announce the shape"):
            chunk_shape(said | wrong, None)


@pytest.mark.parametrize(
    "url", ["ws://robot:8000", "ws://192.168.0.7:8000", "ws://localhost.evil.example:80", "ws://[2001:db8::1]"]
)
def test_a_key_does_not_cross_the_network_in_clear(url):
    with pytest.raises(ValueError, match="the key would cross the network in clear; use wss://"):
        RemotePolicy(url, api_key="0123456789abcdef")
    for sent in (RemotePolicy(url), RemotePolicy(url.replace("ws:", "wss:"), api_key="0123456789abcdef")):
        assert sent.url.endswith(url[3:])
    for here in ("ws://localhost:8000", "ws://127.0.0.1:8000", "ws://[::1]:8000"):
        assert RemotePolicy(here, api_key="0123456789abcdef").url == here
