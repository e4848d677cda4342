"""Counts and times of requests, in the text format of Prometheus."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Container

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_BOUNDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)


class Metrics:
    """Counts by path and status, and a histogram of seconds by path; one event loop writes them."""

    def __init__(self) -> None:
        self.in_flight = 0
        self._requests: Counter[tuple[str, int]] = Counter()
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._buckets: defaultdict[str, list[int]] = defaultdict(lambda: [0] * (len(_BOUNDS) + 1))

    def observe(self, path: str, status: int, seconds: float) -> None:
        self._requests[path, status] += 1
        self._seconds[path] += seconds
        self._buckets[path][bisect_left(_BOUNDS, seconds)] += 1

    def text(self) -> str:
        lines = [
            "# HELP metasd_requests_in_flight Requests begun and not yet answered.",
            "# TYPE metasd_requests_in_flight gauge",
            f"metasd_requests_in_flight {self.in_flight}",
            "# HELP metasd_requests_total Requests answered.",
            "# TYPE metasd_requests_total counter",
        ]
        for (path, status), count in sorted(self._requests.items()):
            lines.append(f'metasd_requests_total{{path="{path}",status="{status}"}} {count}')
        lines += [
            "# HELP metasd_request_seconds Seconds from a request's headers to its answer's end.",
            "# TYPE metasd_request_seconds histogram",
        ]
        for path, buckets in sorted(self._buckets.items()):
            total = 0
            for bound, count in zip([*_BOUNDS, "+Inf"], buckets, strict=True):
                total += count
                lines.append(f'metasd_request_seconds_bucket{{path="{path}",le="{bound}"}} {total}')
            lines.append(f'metasd_request_seconds_sum{{path="{path}"}} {self._seconds[path]:.6f}')
            lines.append(f'metasd_request_seconds_count{{path="{path}"}} {total}')
        return "\n".join(lines) + "\n"


class Measured:
    """ASGI middleware that reports every request to `metrics`; a path not in `paths` is `other`."""

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: Container[str]) -> None:
        self._app = app
        self._metrics = metrics
        self._paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 500
        begin = time.perf_counter()

        async def send_noting_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        self._metrics.in_flight += 1
        try:
            await self._app(scope, receive, send_noting_status)
        finally:
            self._metrics.in_flight -= 1
            path = scope["path"] if scope["path"] in self._paths else "other"
            self._metrics.observe(path, status, time.perf_counter() - begin)
