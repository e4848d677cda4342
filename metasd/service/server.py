"""The server process: it serves until a signal stops it, and finishes what it has begun."""

from __future__ import annotations

import ctypes
import resource
import socket
import sys
from pathlib import Path
from typing import Any, NamedTuple

import uvicorn

from metasd.compressed import CompressedModel
from metasd.errors import InputError

from .access import Access
from .app import Limits, create_app
from .protocol import ConnectionLimits, Connections

_LIBRARY = ctypes.CDLL(None) if hasattr(ctypes.CDLL(None), "malloc_trim") else None  # glibc
_SWITCH_SECONDS = 0.0005
_SPARE_FILES = 256
_TRIM_SECONDS = 5


class Certificate(NamedTuple):
    """PEM files of TLS: a certificate (and what it is signed by) and its private key."""

    chain: Path
    key: Path


def serve(
    model: CompressedModel,
    host: str,
    port: int,
    limits: Limits | None = None,
    access: Access | None = None,
    connections: ConnectionLimits | None = None,
    certificate: Certificate | None = None,
) -> None:
    """Serves until SIGTERM or SIGINT; requests that have begun are answered first.

    Args:
        model: what answers.
        host: the address to listen on.
        port: the port; 0 takes a free one.
        limits: what requests may ask for.
        access: who may ask.
        connections: how many there may be, and how slow.
        certificate: for HTTPS.

    Raises:
        InputError: nothing can listen there, or the certificate cannot be read.
    """
    connections = connections or ConnectionLimits()
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=1024)
    except (OSError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) else "ports end at 65535"
        raise InputError(f"cannot listen on {host}, port {port}: {reason}") from None
    sys.setswitchinterval(_SWITCH_SECONDS)  # the event loop must not wait for a scoring thread
    _allow_files(2 * connections.connections + _SPARE_FILES)
    protocol: Any = Connections(connections).protocol  # uvicorn wants a class and only calls it
    config = uvicorn.Config(
        create_app(model, limits, access),
        log_level="error",
        access_log=False,
        http=protocol,
        ws="none",
        server_header=False,
        h11_max_incomplete_event_size=connections.header_bytes,
        timeout_graceful_shutdown=30,
        callback_notify=_return_memory,
        timeout_notify=_TRIM_SECONDS,
        ssl_certfile=certificate and certificate.chain,
        ssl_keyfile=certificate and certificate.key,
    )
    try:
        config.load()
    except OSError as error:
        raise InputError(f"no certificate and key for TLS: {error.strerror or error}") from None
    shown = f"[{host}]" if ":" in host else host
    scheme = "http" if certificate is None else "https"
    print(f"{scheme}://{shown}:{listener.getsockname()[1]} (stop with Ctrl-C)", flush=True)
    uvicorn.Server(config).run(sockets=[listener])


async def _return_memory() -> None:
    """Gives freed memory back: glibc keeps some 50 MB after answers of megabytes."""
    if _LIBRARY is not None:
        _LIBRARY.malloc_trim(0)


def _allow_files(wanted: int) -> None:
    """Raises the number of files and connections that the process may have open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
