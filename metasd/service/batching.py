"""Dynamic batching: requests that wait at the same time are given to a thread together."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

_BATCH_BYTES = 4096  # dozens of single queries, or one large batch


class Busy(Exception):
    """As many requests are waiting as may."""


class DynamicBatcher:
    """Answers bodies by a function of a batch of them, called in threads; for one event loop.

    What arrives while all threads are busy is given to the next free one in one batch: scoring a
    few queries together takes much less than scoring each.

    Args:
        function: takes bodies; returns the answer to each, or the error that is its answer.
        threads: how many of its calls run at the same time.
        limit: how many bodies may be waiting or with a thread.
    """

    def __init__(
        self,
        function: Callable[[Sequence[bytes]], Sequence[bytes | Exception]],
        threads: int,
        limit: int,
    ) -> None:
        self._function = function
        self._pool = ThreadPoolExecutor(threads, "score")
        self._free = threads
        self._limit = limit
        self._accepted = 0
        self._waiting: deque[tuple[bytes, asyncio.Future[bytes]]] = deque()

    async def __call__(self, body: bytes) -> bytes:
        """The answer to a body.

        Raises:
            Busy: `limit` bodies are waiting already.
        """
        if self._accepted >= self._limit:
            raise Busy(f"{self._accepted} requests are waiting already; try again soon")
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting.append((body, answer))
        self._accepted += 1
        self._start()
        try:
            return await answer
        finally:
            self._accepted -= 1

    def close(self) -> None:
        """Ends the threads when they have finished."""
        self._pool.shutdown()

    def _start(self) -> None:
        if not self._free or not self._waiting:
            return
        self._free -= 1
        part = [self._waiting.popleft()]
        size = len(part[0][0])
        while self._waiting and (size := size + len(self._waiting[0][0])) <= _BATCH_BYTES:
            part.append(self._waiting.popleft())
        bodies, answers = zip(*part, strict=True)
        loop = asyncio.get_running_loop()
        running = loop.run_in_executor(self._pool, self._function, bodies)
        running.add_done_callback(lambda done: self._finish(answers, done))

    def _finish(
        self,
        answers: Sequence[asyncio.Future[bytes]],
        done: asyncio.Future[Sequence[bytes | Exception]],
    ) -> None:
        self._free += 1
        failed = done.exception()
        found = [failed] * len(answers) if failed is not None else done.result()
        for answer, value in zip(answers, found, strict=True):
            if answer.done():  # cancelled: nobody waits for it any more
                continue
            if isinstance(value, bytes):
                answer.set_result(value)
            else:
                answer.set_exception(value)
        self._start()
