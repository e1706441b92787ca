"""Who says nothing gives way to who does, and nobody is kept out by open connections."""

import asyncio
import logging
import resource
import socket

import pytest

from vla_tune.serving import doors as module
from vla_tune.serving.connection import Doors
from vla_tune.serving.doors import Seldom, affordable, seldom_complaining
from vla_tune.serving.metrics import Metrics
from vla_tune.serving.rest import Rest, _Front, _Listener
from vla_tune.serving.security import Loopback
from vla_tune.serving.server import PolicyServer
from vla_tune.serving.worker import Worker


@pytest.fixture
def closed() -> list[str]:
    return []


def test_the_longest_silent_gives_way(closed):
    doors = Doors(3)
    for name in "abc":
        doors.enter(name, lambda name=name: closed.append(name))
    doors.heard("a")
    doors.enter("d", lambda: closed.append("d"))
    assert closed == ["b"]
    doors.leave("c")
    doors.enter("e", lambda: closed.append("e"))
    assert closed == ["b"]
    doors.enter("f", lambda: closed.append("f"))
    assert closed == ["b", "a"]


def test_who_is_being_answered_keeps_its_place(closed):
    doors = Doors(1)
    doors.enter("asks", lambda: closed.append("asks"))
    doors.leave("asks")
    for name in "xyz":
        doors.enter(name, lambda name=name: closed.append(name))
    assert closed == ["x", "y"]
    doors.enter("asks", lambda: closed.append("asks"))
    doors.enter("asks", lambda: closed.append("asks"))
    assert closed == ["x", "y", "z"]


def test_who_has_gone_is_heard_no_more(closed):
    doors = Doors(1)
    doors.heard("gone")
    doors.leave("gone")
    doors.enter("here", lambda: closed.append("here"))
    assert not closed


def test_a_listener_leaves_files_for_everything_else(monkeypatch):
    monkeypatch.setattr(module.resource, "getrlimit", lambda kind: (256, 256))
    assert (affordable(1000), affordable(10)) == (64, 10)
    monkeypatch.setattr(module.resource, "getrlimit", lambda kind: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert affordable(1000) == 1000


def test_a_complaint_about_accepting_is_heard_once_a_second():
    now = [0.0]
    seldom = Seldom("socket.accept()", clock=lambda: now[0])
    complaint = logging.makeLogRecord({"msg": "socket.accept() out of system resource\nsocket: ..."})
    other = logging.makeLogRecord({"msg": "Task exception was never retrieved"})
    assert [seldom(complaint) for _ in range(5)] == [True, False, False, False, False]
    assert seldom(other)
    now[0] = 1.0
    assert [seldom(complaint) for _ in range(2)] == [True, False]


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("asyncio", "socket.accept() out of system resource"),
        ("websockets.server", "opening handshake failed"),
        ("aiohttp.server", "Error handling request from 127.0.0.1"),
    ],
)
def test_whoever_sends_nonsense_does_not_fill_the_log(caplog, name, complaint):
    with seldom_complaining():
        for _ in range(3):
            logging.getLogger(name).error(complaint)
    assert len(caplog.records) == 1
    assert not logging.getLogger(name).filters


@pytest.fixture
def server(tiny_contract, echo):
    def make() -> PolicyServer:
        return PolicyServer(Worker(echo, rows=1, seconds=5.0), {"default": tiny_contract}, Loopback(), Metrics())

    return make


async def ended(reader: asyncio.StreamReader) -> bool:
    """Whether the other side has closed; returns when it has."""
    try:
        return await asyncio.wait_for(reader.read(), 30) == b""
    except ConnectionResetError:
        return True


def test_silent_connections_to_the_second_front_give_way(server, monkeypatch):
    monkeypatch.setattr("vla_tune.serving.rest._OPEN", 2)

    async def main() -> None:
        made = server()
        async with made.serving("localhost", 0), Rest(0).serving(made, "127.0.0.1") as port:
            silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
            assert await ended(silent[0][0])
            silent[1][1].write(b"GET /other HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert (await silent[1][0].readline()).startswith(b"HTTP/1.1 404")
            for _, writer in silent:
                writer.close()

    asyncio.run(main())


def test_silent_websockets_give_way_and_who_asks_stays(server, monkeypatch):
    monkeypatch.setattr("vla_tune.serving.server._CONNECTIONS", 2)

    async def main() -> None:
        made = server()
        async with made.serving("127.0.0.1", 0) as listening:
            port = listening.sockets[0].getsockname()[1]
            silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
            asks = await asyncio.open_connection("127.0.0.1", port)
            assert await ended(silent[0][0])
            asks[1].write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert (await asks[0].readline()).startswith(b"HTTP/1.1 200")
            for _, writer in (*silent, asks):
                writer.close()

    asyncio.run(main())


def test_a_connection_without_a_request_is_closed_in_time(server):
    """aiohttp's own clock; it runs from the beginning of a connection on, and again from each answer."""

    async def main() -> None:
        made = server()
        handler = _Listener(_Front(made, Rest(0).missing_state))()
        assert handler.keepalive_timeout == 10.0
        here, there = socket.socketpair()
        transport, _ = await asyncio.get_running_loop().connect_accepted_socket(lambda: handler, there)
        here.send(b"POST /act HTTP/1.1\r\nHost: localh")
        assert handler._keepalive_handle is not None
        handler._next_keepalive_close_time = 0.0
        handler._process_keepalive()  # the moment has come
        assert transport.is_closing()
        here.close()
        await made.worker.close()

    asyncio.run(main())
