"""Whatever is sent, the server answers the next good question, and has not grown."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from vla_tune.schema import Observation
from vla_tune.serving import codec
from vla_tune.serving.client import RemotePolicy
from vla_tune.serving.codec import request_of

GROWTH = 24 * 2**20
"""Bytes by which a Python process may differ after thousands of messages (arenas, caches)."""


@pytest.fixture
def process(tiny_contract, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A server's process and its port."""
    tiny_contract.save(tmp_path)
    command = [sys.executable, str(Path(__file__).with_name("served_process.py")), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as started:
        assert started.stdout is not None
        try:
            yield started, int(started.stdout.readline())
        finally:
            started.kill()


def resident(process: subprocess.Popen[str]) -> int:
    pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def good() -> dict:
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    return request_of(Observation({"front": image}, np.zeros(4, np.float32), "lift the red block"))


def mutated(random: np.random.Generator, message: bytes) -> bytes:
    """One of the ways in which a message goes wrong."""
    data = bytearray(message)
    kind = random.integers(6)
    place = int(random.integers(min(len(data), 200)))  # the heads are where the meaning is
    if kind == 0:
        data[place] = random.integers(256)
    elif kind == 1:
        data = data[: int(random.integers(len(data)))]
    elif kind == 2:
        data[place:place] = random.bytes(int(random.integers(1, 9)))
    elif kind == 3:
        data += data[: int(random.integers(1, 400))]
    elif kind == 4:
        data[place : place + 4] = b"\xff\xff\xff\xff"
    else:
        data = bytearray(random.bytes(int(random.integers(0, 300))))
    return bytes(data)


class Attacker:
    """Sends anything; connects again when it is thrown out."""

    def __init__(self, url: str) -> None:
        self._url, self._closing = url, ExitStack()
        self._connection = self._open()
        self.refusals = self.answers = 0

    def _open(self) -> ClientConnection:
        self._closing.close()
        connection = self._closing.enter_context(connect(self._url, compression=None, proxy=None, max_size=None))
        connection.recv(timeout=60)
        return connection

    def send(self, message: bytes) -> None:
        try:
            self._connection.send(message)
            reply = self._connection.recv(timeout=60)
        except ConnectionClosed:
            self.refusals += 1
            self._connection = self._open()
            return
        if isinstance(reply, str) or codec.decode(reply).get("type") == "error":
            self.refusals += 1
        else:
            self.answers += 1

    def close(self) -> None:
        self._closing.close()


def attack(process: subprocess.Popen[str], port: int, *, messages: int) -> Attacker:
    """Corpus and fuzzer, so many; fails when the process died or grew, or an honest client is not served any more."""
    url, random = f"ws://localhost:{port}", np.random.default_rng(1)
    plain, enveloped = codec.encode(good()), codec.encode({"endpoint": "infer"} | good())
    attacker = Attacker(url)
    before = None
    for _ in range(messages // 100):
        for _ in range(100):
            attacker.send(mutated(random, plain if random.random() < 0.2 else enveloped))
        assert process.poll() is None, "the server died"
        before = resident(process) if before is None else before
    attacker.close()
    assert before is not None
    assert resident(process) - before < GROWTH
    honest = RemotePolicy(url)
    observation = Observation({"front": np.zeros((64, 64, 3), np.uint8)}, np.zeros(4, np.float32), "lift the red block")
    assert honest.act([observation]).shape == (1, 4, 4)
    honest.close()
    return attacker


def test_a_server_survives_whatever_is_sent(process):
    attacker = attack(*process, messages=1000)
    assert attacker.refusals > 200


@pytest.mark.slow
def test_a_server_survives_a_long_night_of_it(process):
    attacker = attack(*process, messages=200_000)
    print(f"{attacker.refusals} refusals, {attacker.answers} answers")
    assert attacker.refusals > 10_000
