"""The server process: clients that leave, a full queue, a signal to stop, a port that is taken."""

import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from metasd.compressed import CompressedModel
from metasd.errors import InputError
from service_model import call, exchange, post, served

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")

SLOW = """
import sys, time
from metasd.compressed import CompressedModel
from metasd.service import Limits, serve
best = CompressedModel.best
def slow(self, *args, **kwargs):
    time.sleep({seconds})
    return best(self, *args, **kwargs)
model = CompressedModel.from_pretrained(sys.argv[1])
CompressedModel.best = slow
serve(model, "127.0.0.1", 0, Limits(threads=1, concurrency=3, body_seconds=0.3))
"""


def test_a_client_that_leaves(address: str) -> None:
    host, port = address.split(":")
    for request in (post(b"{", length=1000), post(b"{}")[:-2], b"POST /pre"):
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(request)
    time.sleep(0.1)
    assert call(address, "GET", "/healthz")[0] == 200


@pytest.mark.slow
def test_more_than_may_wait_get_a_503(folder: Path, model: CompressedModel) -> None:
    good = {"head": model.entity_labels[0], "relation": model.relation_labels[0]}
    with served("-c", SLOW.format(seconds=0.5), folder) as (address, _):
        found: list[tuple[int, Any, Any]] = []
        threads = [
            threading.Thread(target=lambda: found.append(call(address, "POST", "/predict", good)))
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        begin = time.perf_counter()
        assert call(address, "GET", "/healthz")[0] == 200
        assert time.perf_counter() - begin < 0.4  # scoring does not hold up the rest
        for thread in threads:
            thread.join()
        statuses = sorted(status for status, _, _ in found)
        assert statuses == [200] * 3 + [503] * 5
        refused = next(one for one in found if one[0] == 503)
        assert refused[2]["Retry-After"] == "1"
        assert "try again" in refused[1]["error"]
        slow_body = exchange(address, post(b"{", length=1000))
        assert slow_body.startswith(b"HTTP/1.1 408")


@pytest.mark.slow
def test_stopping_finishes_what_has_begun(folder: Path, model: CompressedModel) -> None:
    good = {"head": model.entity_labels[0], "relation": model.relation_labels[0]}
    with served("-c", SLOW.format(seconds=1), folder) as (address, process):
        found: list[Any] = []
        thread = threading.Thread(
            target=lambda: found.append(call(address, "POST", "/predict", good))
        )
        thread.start()
        time.sleep(0.4)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        with pytest.raises(ConnectionError):
            call(address, "GET", "/healthz")
        thread.join()
        assert found[0][0] == 200
        process.wait(timeout=10)


def test_serving_needs_no_torch(folder: Path) -> None:
    code = (
        "import sys; from metasd.compressed import CompressedModel; from metasd import service;"
        "service.create_app(CompressedModel.from_pretrained(sys.argv[1]));"
        "sys.exit('torch' in sys.modules)"
    )
    command = [sys.executable, "-P", "-c", code, folder]
    assert subprocess.run(command, check=False).returncode == 0


def test_an_address_that_is_taken(model: CompressedModel) -> None:
    from metasd.service import serve

    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(InputError, match=f"cannot listen on 127.0.0.1, port {port}: Address"):
            serve(model, "127.0.0.1", port)
