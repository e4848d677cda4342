"""A compressed model and servers of it, for the tests of the service and of its page."""

import http.client
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from metasd.compressed import CompressedModel
from metasd.data.load import load_graph
from metasd.export.compress import compress_tables


def small_model() -> CompressedModel:
    """Random tables of a generated graph of 120 people."""
    graph = load_graph("families:120")
    draw = np.random.default_rng(0)
    entities = draw.normal(size=(graph.num_entities, 16)).astype(np.float32)
    relations = draw.normal(size=(2 * graph.num_relations, 16)).astype(np.float32)
    return compress_tables("complex", 8, entities, relations, "int8", graph=graph)


@contextmanager
def served(*command: str | Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Runs a Python command that serves; gives `host:port` and the process."""
    process = subprocess.Popen(  # -P: not the sources of this folder, which hold no built module
        [sys.executable, "-P", *map(str, command)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith(("http://", "https://")), line
        yield line.split()[0].partition("//")[2], process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def call(
    address: str, method: str, path: str, body: Any = None, **headers: str
) -> tuple[int, Any, http.client.HTTPMessage]:
    """Status, JSON and headers of an answer; a body that is not bytes is sent as JSON."""
    connection = http.client.HTTPConnection(address, timeout=30)
    if body is not None and not isinstance(body, bytes):
        body = json.dumps(body).encode()
    connection.request(
        method, path, body, {"Content-Type": "application/json"} | headers if body else headers
    )
    response = connection.getresponse()
    text = response.read()
    connection.close()
    kind = response.headers.get_content_type()
    return (
        response.status,
        json.loads(text) if kind == "application/json" else text.decode(),
        response.headers,
    )


def exchange(address: str, request: bytes, end: bool = False) -> bytes:
    """What a server says to raw bytes."""
    host, port = address.split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        try:
            connection.sendall(request)
            if end:
                connection.shutdown(socket.SHUT_WR)
            answer = b""
            while b"\r\n\r\n" not in answer:
                part = connection.recv(65536)
                if not part:
                    break
                answer += part
        except ConnectionError:  # it has answered and closed while there was more to send
            return b""
        return answer


def post(body: bytes, kind: bytes = b"application/json", length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: %s\r\n" % kind
    return head + b"Content-Length: %d\r\n\r\n%s" % (size, body)
