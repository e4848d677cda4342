"""Requests sent to `metasd serve` at a fixed rate, and how long the answers took.

python benchmarks/load_service.py MODEL --rate 500 --seconds 20

A request's time runs from when it was due, so that a server which falls behind shows it.
"""

import argparse
import asyncio
import json
import random
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from typing import Any

Sent = list[tuple[float, int]]  # seconds, status


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model", nargs="?", help="a model folder; served for as long as this runs")
    parser.add_argument("--url", help="a server that is running already, instead")
    parser.add_argument("--rate", type=float, default=500, help="requests a second")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--connections", type=int, default=32)
    given = parser.parse_args()
    if (given.model is None) == (given.url is None):
        parser.error("give MODEL or --url")
    server = None
    url = given.url
    if url is None:
        command = [sys.executable, "-P", "-m", "metasd", "serve", given.model, "--port", "0"]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert server.stdout is not None
        url = server.stdout.readline().split()[0]
    try:
        bodies = questions(url)
        asyncio.run(load(url, bodies, given.rate, 1, given.connections))  # a warm-up
        sent = asyncio.run(load(url, bodies, given.rate, given.seconds, given.connections))
    finally:
        if server is not None:
            server.terminate()
            server.wait()
    print(json.dumps(summary(sent, given.rate), indent=1))


def questions(url: str, count: int = 2000, seed: int = 0) -> list[bytes]:
    """Bodies of single questions, half of them for heads, about entities drawn at random."""
    draw = random.Random(seed)
    relations = _get(f"{url}/relations")
    ids = [
        entity["id"]
        for digit in "0123456789abc"
        for entity in _get(f"{url}/entities?prefix={digit}&limit=1000")
    ] or [entity["id"] for entity in _get(f"{url}/entities?limit=1000")]
    return [
        json.dumps(
            {draw.choice(["head", "tail"]): draw.choice(ids), "relation": draw.choice(relations)}
        ).encode()
        for _ in range(count)
    ]


async def load(
    url: str, bodies: list[bytes], rate: float, seconds: float, connections: int
) -> Sent:
    """Sends `rate * seconds` requests, due evenly; each connection has one at a time."""
    host, port = url.removeprefix("http://").split(":")
    total = int(rate * seconds)
    begin = time.perf_counter() + 0.1

    async def send(first: int) -> Sent:
        reader, writer = await asyncio.open_connection(host, int(port))
        found = []
        for i in range(first, total, connections):
            due = begin + i / rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            body = bodies[i % len(bodies)]
            writer.write(
                b"POST /predict HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\n"
                b"Content-Length: %d\r\n\r\n%s" % (host.encode(), len(body), body)
            )
            head = await reader.readuntil(b"\r\n\r\n")
            length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
            await reader.readexactly(int(length))
            found.append((time.perf_counter() - due, int(head.split(b" ", 2)[1])))
        writer.close()
        return found

    parts = await asyncio.gather(*map(send, range(connections)))
    return [one for part in parts for one in part]


def summary(sent: Sent, rate: float) -> dict[str, Any]:
    """Milliseconds by quantile, and statuses."""
    milliseconds = sorted(1e3 * seconds for seconds, _ in sent)
    quantiles = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}
    return {
        "requests": len(sent),
        "rate": rate,
        "statuses": dict(Counter(str(status) for _, status in sent)),
        "ms": {
            **{name: round(milliseconds[int(q * len(sent))], 2) for name, q in quantiles.items()},
            "max": round(milliseconds[-1], 2),
        },
    }


def _get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=10) as response:
        return json.load(response)


if __name__ == "__main__":
    main()
