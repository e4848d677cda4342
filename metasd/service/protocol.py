"""Connections with deadlines, and only so many of them per client.

Of the servers that there are (uvicorn with h11, httptools or zttp, hypercorn, granian) none limits
the connections of a client, and only hypercorn and granian end a header that does not come to its
end. h11 bounds what may be sent before a header, a chunk or the trailers are whole, and reads
pipelined requests one by one; httptools bounds neither. So this is uvicorn's protocol on h11, with
what is missing.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import math
from dataclasses import dataclass
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

_LINGER_SECONDS = 1.0
_LINGER_BYTES = 1 << 20
_SWEEP_SECONDS = 0.25


@dataclass(frozen=True)
class ConnectionLimits:
    """What connections may take of a server.

    Attributes:
        connections: open at the same time.
        per_client: of one address (IPv6: of one /64 network). Beyond these limits the connection
            that has waited longest for its client is closed.
        header_bytes: of a header, of the trailers, and of the extension of a chunk.
        header_seconds: from the end of an answer, or the beginning, to the end of the next header.
        body_seconds: from there to the end of the body.
        answer_seconds: for a client to take 64 KiB of an answer.
    """

    connections: int = 1000
    per_client: int = 100
    header_bytes: int = 16 * 1024
    header_seconds: float = 10
    body_seconds: float = 11
    answer_seconds: float = 20


class Connections:
    """The open connections of a server, by client."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self.limits = limits
        self._clients: dict[str, dict[LimitedProtocol, None]] = {}  # the longest without news first
        self._count = 0
        self._sweeping = False

    def protocol(self, *args: Any, **kwargs: Any) -> LimitedProtocol:
        """One more connection, as uvicorn asks for it."""
        return LimitedProtocol(self, *args, **kwargs)

    def add(self, connection: LimitedProtocol) -> None:
        mine = self._clients.setdefault(connection.client_name, {})
        mine[connection] = None
        self._count += 1
        if len(mine) > self.limits.per_client:
            self._close_one(mine)
        elif self._count > self.limits.connections:
            self._close_one(max(self._clients.values(), key=len))
        if not self._sweeping:
            self._sweeping = True
            connection.loop.call_later(_SWEEP_SECONDS, self._sweep, connection.loop)

    def remove(self, connection: LimitedProtocol) -> None:
        mine = self._clients.get(connection.client_name, {})
        if connection in mine:
            del mine[connection]
            self._count -= 1
            if not mine:
                del self._clients[connection.client_name]

    def heard_of(self, connection: LimitedProtocol) -> None:
        """Puts a connection behind the others of its client."""
        mine = self._clients.get(connection.client_name, {})
        if connection in mine:
            del mine[connection]
            mine[connection] = None

    def _close_one(self, mine: dict[LimitedProtocol, None]) -> None:
        waiting = (one for one in mine if one.deadline < math.inf)
        victim = next(waiting, None)
        if victim is not None:
            self.remove(victim)
            victim.transport.abort()

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        """Ends what is too late; a timer per request would cost more."""
        now = loop.time()
        late = [one for mine in self._clients.values() for one in mine if one.deadline < now]
        for connection in late:
            connection.end_late()
        self._sweeping = bool(self._clients)
        if self._sweeping:
            loop.call_later(_SWEEP_SECONDS, self._sweep, loop)


class LimitedProtocol(H11Protocol):
    """A connection that ends when its client is too slow, or sends what is not HTTP.

    Attributes:
        deadline: until when its client must have done its part; infinite while the server is to
            answer.
    """

    def __init__(self, connections: Connections, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._all, self._limits = connections, connections.limits
        self._waiting_for: Any = None  # h11's state of the client
        self._reading_deadline = self._writing_deadline = math.inf
        self._linger: int | None = None  # bytes that are still read, and thrown away

    @property
    def deadline(self) -> float:
        return min(self._reading_deadline, self._writing_deadline)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.client_name = client_name(self.client[0] if self.client else "")
        self._note_state()
        self._all.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._all.remove(self)
        super().connection_lost(exc)
        self._unset_keepalive_if_required()

    def data_received(self, data: bytes) -> None:
        if self._linger is None:
            super().data_received(data)
            return
        self._linger -= len(data)
        if self._linger < 0:
            self.transport.abort()

    def handle_events(self) -> None:
        super().handle_events()
        self._note_state()

    def on_response_complete(self) -> None:
        if self.conn.their_state is h11.SEND_BODY and not self.transport.is_closing():
            self.server_state.total_requests += 1
            self._end_gently()  # it was answered early, and the rest is not read
            return
        super().on_response_complete()
        if self.transport.is_closing():  # once all is sent, which its client may never take
            self._linger = 0
            self._reading_deadline = self.loop.time() + self._limits.answer_seconds
        self._note_state()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._writing_deadline = self.loop.time() + self._limits.answer_seconds

    def resume_writing(self) -> None:
        super().resume_writing()
        self._writing_deadline = math.inf

    def shutdown(self) -> None:
        if self._linger is None:
            super().shutdown()

    def send_400_response(self, msg: str) -> None:
        most = f"{self._limits.header_bytes} bytes of headers or trailers"
        self._refuse(400, f"not HTTP/1.1, or more than {most}")

    def timeout_keep_alive_handler(self) -> None:
        if self._linger is None:
            self._end_gently()

    def end_late(self) -> None:
        """Ends a connection whose deadline is over."""
        if self._linger is not None or self._writing_deadline < math.inf:
            self.transport.abort()
        elif self.conn.trailing_data[0] or self.conn.their_state is h11.SEND_BODY:
            self._refuse(408, "the request was not whole in time")
        else:
            self._end_gently()

    def _note_state(self) -> None:
        """Sets the deadline where the client has something else to do than before."""
        state = self.conn.their_state
        if state is self._waiting_for or self._linger is not None:
            return
        self._waiting_for = state
        seconds = {h11.IDLE: self._limits.header_seconds, h11.SEND_BODY: self._limits.body_seconds}
        self._reading_deadline = self.loop.time() + seconds.get(state, math.inf)
        self._all.heard_of(self)

    def _refuse(self, status: int, message: str) -> None:
        """Answers in place of the application, unless it has begun to."""
        cycle = self.cycle
        begun = cycle is not None and not cycle.response_complete
        if begun:  # whatever it says now is thrown away
            cycle.disconnected = True
            cycle.message_event.set()
        if begun and cycle.response_started:
            self.transport.abort()
            return
        body = json.dumps({"error": message}).encode()
        reason = {400: b"Bad Request", 408: b"Request Timeout"}[status]
        self.transport.write(
            b"HTTP/1.1 %d %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
            b"connection: close\r\n\r\n%s" % (status, reason, len(body), body)
        )
        self._end_gently()

    def _end_gently(self) -> None:
        """Says that nothing more will come, and reads on for a moment.

        Closing at once, with bytes of the client unread, would destroy the answer on its way.
        """
        self._unset_keepalive_if_required()
        self._linger = _LINGER_BYTES
        unsent = self.transport.get_write_buffer_size()
        seconds = self._limits.answer_seconds if unsent else _LINGER_SECONDS
        self._reading_deadline = self.loop.time() + seconds
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()


def client_name(address: str) -> str:
    """An IPv4 address; of an IPv6 address its network, all of which one client has."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if parsed.version == 4:
        return address
    mapped = parsed.ipv4_mapped
    return str(mapped or ipaddress.ip_network((int(parsed), 64), strict=False))
