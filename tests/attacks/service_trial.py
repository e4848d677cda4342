"""A server under one attack after the other: good requests' latency, memory, lines logged."""

import json
import socket
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ATTACKS = Path(__file__).with_name("service_attacks.py")
OTHER = "127.0.0.2"  # of a client that is not the attacker; Linux takes the whole of 127/8
LONGEST_SECONDS = 1.0
MOST_GROWTH = 64 << 20


@dataclass
class Outcome:
    """What one attack did to a server.

    Attributes:
        seconds: how long each good request took.
        failed: good requests without a 200 within 10 seconds.
        before, peak, after: resident bytes of the server.
        lines: that it logged.
    """

    attack: str
    seconds: list[float] = field(default_factory=list)
    failed: int = 0
    before: int = 0
    peak: int = 0
    after: int = 0
    lines: int = 0

    @property
    def growth(self) -> int:
        return max(self.peak, self.after) - self.before

    @property
    def held(self) -> bool:
        return (
            not self.failed
            and max(self.seconds) < LONGEST_SECONDS
            and self.growth < MOST_GROWTH
            and self.lines <= 1
        )

    def record(self) -> dict[str, Any]:
        return {
            "attack": self.attack,
            "held": self.held,
            "good_requests": len(self.seconds) + self.failed,
            "failed": self.failed,
            "p50_ms": round(1e3 * statistics.median(self.seconds), 1) if self.seconds else None,
            "max_ms": round(1e3 * max(self.seconds), 1) if self.seconds else None,
            "before_bytes": self.before,
            "peak_bytes": self.peak,
            "after_bytes": self.after,
            "lines": self.lines,
        }


class Server:
    """`metasd serve` of a model folder, and what it logs."""

    def __init__(self, model: Path, log: Path) -> None:
        self.log = log
        command = [sys.executable, "-P", "-m", "metasd", "serve", str(model), "--port", "0"]
        with log.open("wb") as errors:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors)
        assert self.process.stdout is not None
        line = self.process.stdout.readline().decode()
        self.address = line.split()[0].removeprefix("http://")

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


def attacked(
    attack: str, server: Server, seconds: float, size: float, client: str = OTHER, rest: float = 6
) -> Outcome:
    """Runs an attack, and good requests from `client` meanwhile.

    Args:
        rest: seconds from the end of the attack until the memory is looked at again.
    """
    process, log = server.process.pid, server.log
    outcome = Outcome(attack, before=_memory(process, "VmRSS"))
    lines = len(log.read_bytes().splitlines())
    Path(f"/proc/{process}/clear_refs").write_text("5")  # VmHWM starts again
    good = Good(server.address, client)
    command = [sys.executable, "-P", ATTACKS, attack, server.address, str(seconds), str(size)]
    attacker = subprocess.Popen(list(map(str, command)))
    end = time.monotonic() + seconds
    try:
        while time.monotonic() < end:
            good.ask(outcome)
            time.sleep(0.02)
    finally:
        attacker.kill()
        attacker.wait()
    time.sleep(rest)
    outcome.peak = _memory(process, "VmHWM")
    outcome.after = _memory(process, "VmRSS")
    outcome.lines = len(log.read_bytes().splitlines()) - lines
    return outcome


class Good:
    """A client with one question, each time over a connection of its own."""

    def __init__(self, address: str, client: str) -> None:
        host, port = address.rsplit(":", 1)
        self._to, self._client = (host, int(port)), client
        self._body = b""
        [entity] = self._get("/entities?limit=1")
        relation = self._get("/relations")[0]
        self._body = json.dumps({"head": entity["id"], "relation": relation}).encode()

    def ask(self, outcome: Outcome) -> None:
        begin = time.perf_counter()
        try:
            status, _ = self._exchange(b"POST", b"/predict", self._body)
        except (OSError, ValueError):
            status = 0
        if status == 200:
            outcome.seconds.append(time.perf_counter() - begin)
        else:
            outcome.failed += 1

    def _get(self, path: str) -> Any:
        status, body = self._exchange(b"GET", path.encode(), b"")
        if status != 200:
            raise OSError(f"{path}: {status}")
        return json.loads(body)

    def _exchange(self, method: bytes, path: bytes, body: bytes) -> tuple[int, bytes]:
        with socket.create_connection(self._to, 10, (self._client, 0)) as connection:
            connection.sendall(
                b"%s %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                b"Connection: close\r\nContent-Length: %d\r\n\r\n%s"
                % (method, path, len(body), body)
            )
            with connection.makefile("rb") as file:
                found = file.read()
        head, _, content = found.partition(b"\r\n\r\n")
        return int(head[9:12]), content


def _memory(process: int, key: str) -> int:
    status = Path(f"/proc/{process}/status").read_text()
    return 1024 * int(status.partition(f"{key}:")[2].split()[0])
