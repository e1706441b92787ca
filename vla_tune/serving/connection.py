"""A websocket that has a place among the others, and reads no more at a time than they can wait for."""

import asyncio
from typing import Any

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ProtocolError
from websockets.frames import Frame, Opcode

from vla_tune.serving.doors import Doors

_FRAMES = 128
"""In one piece of what came; a piece has at most 256 KiB, and tens of thousands of pings fit into it."""
_PIECES = 2048
"""Of one message; each takes memory, an empty one too, and nothing else ends a message that goes on for ever."""
_UNREAD = 2**20
"""Bytes that wait to be sent: pongs do not wait for who reads none."""


class Counted(ServerConnection):
    """A connection that takes one of the places at `doors`, from its first byte to its last."""

    def __init__(self, doors: Doors, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._doors, self._frames, self._pieces = doors, 0, 0
        self._take, self.protocol.recv_frame = self.protocol.recv_frame, self._taken

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It takes its place; another may have to give way."""
        super().connection_made(transport)
        self._doors.enter(self.id, self.transport.abort)

    def data_received(self, data: bytes) -> None:
        """Reads the frames in it, unless they are too many."""
        self._frames = 0
        super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Its place is free."""
        self._doors.leave(self.id)
        super().connection_lost(exc)

    def _taken(self, frame: Frame) -> None:
        self._frames += 1
        if self._frames > _FRAMES:
            raise ProtocolError(f"more than {_FRAMES} frames at once")  # ends the connection, and nothing behind it is read
        if frame.opcode in (Opcode.TEXT, Opcode.BINARY):
            self._pieces = 0
        self._pieces += frame.opcode is Opcode.CONT
        if self._pieces > _PIECES:
            raise ProtocolError(f"a message of more than {_PIECES} pieces")
        if frame.opcode is Opcode.PING and self.transport.get_write_buffer_size() > _UNREAD:
            self.transport.abort()
            return
        self._take(frame)
