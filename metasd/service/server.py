"""The server process: it serves until a signal stops it, and finishes what it has begun."""

from __future__ import annotations

import socket
import sys

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from metasd.compressed import CompressedModel
from metasd.errors import InputError

from .app import Limits, create_app

_CONNECTIONS = 1000
_HEADER_BYTES = 64 * 1024
_SWITCH_SECONDS = 0.0005


def serve(model: CompressedModel, host: str, port: int, limits: Limits | None = None) -> None:
    """Serves until SIGTERM or SIGINT; requests that have begun are answered first.

    Args:
        model: what answers.
        host: the address to listen on.
        port: the port; 0 takes a free one.
        limits: what requests may ask for.

    Raises:
        InputError: nothing can listen there.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=1024)
    except (OSError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) else "ports end at 65535"
        raise InputError(f"cannot listen on {host}, port {port}: {reason}") from None
    sys.setswitchinterval(_SWITCH_SECONDS)  # the event loop must not wait for a scoring thread
    config = uvicorn.Config(
        create_app(model, limits),
        log_level="error",
        access_log=False,
        http=_Protocol,
        ws="none",
        server_header=False,
        limit_concurrency=_CONNECTIONS,
        timeout_graceful_shutdown=30,
    )
    shown = f"[{host}]" if ":" in host else host
    print(f"http://{shown}:{listener.getsockname()[1]} (stop with Ctrl-C)", flush=True)
    uvicorn.Server(config).run(sockets=[listener])


class _Protocol(HttpToolsProtocol):
    """Ends a request of endless headers: httptools alone collects any number of them."""

    _head: int | None = 0  # bytes of headers so far; None within a body

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._head is not None:
            self._head += len(data)
            if self._head > _HEADER_BYTES and not self.transport.is_closing():
                self.send_400_response(f"Headers have at most {_HEADER_BYTES} bytes.")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head = 0

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self._head = None
