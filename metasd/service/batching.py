"""Dynamic batching: what waits at the same time is given to a thread together, clients in turn."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

PART_WORK = 1 << 19  # scores that a thread computes at a time: about 10 ms
PART_ITEMS = 8  # at least so many go together: scoring them takes much less than each alone


class Busy(Exception):
    """As much is waiting as may."""


class Work(NamedTuple):
    """Something to be answered, and about how many scores that takes."""

    item: Any
    work: int
    questions: int = 1


@dataclass(eq=False)
class Answers:
    """The answers to the items of a request; it counts as not yet answered until `sent`."""

    parts: list[bytes]
    sent: Callable[[], None]


@dataclass(eq=False)
class _Client:
    """`served` is the time of fair queueing that it has reached."""

    name: str
    served: int
    work: int = 0  # of all its requests
    requests: int = 0
    queue: deque[_Request] = field(default_factory=deque)


@dataclass(eq=False)
class _Request:
    """A request that is not answered, with the one of its items that waits or is with a thread."""

    client: _Client
    work: int  # 0 of a small one
    now: Work
    answer: asyncio.Future[bytes]


class DynamicBatcher:
    """Answers items by a function of a batch of them, called in threads; for one event loop.

    What arrives while all threads are busy is given to the next free one in one batch. Clients take
    turns by the work that was done for them (start-time fair queueing: one that comes anew is
    served next), and a request gives its items one after the other. Where more waits than may, the
    largest request of the client with most work gives way. A request of one item is small: only
    the number of such is limited.

    Args:
        function: takes items; returns the answer to each, or the error that is its answer.
        threads: how many of its calls run at the same time.
        requests: how many requests may be waiting or with a thread.
        work: how much work larger ones may be together, until their answers are sent; half of it
            for several of one client.
    """

    def __init__(
        self,
        function: Callable[[Sequence[Any]], Sequence[bytes | Exception]],
        threads: int,
        requests: int,
        work: int,
    ) -> None:
        self._function = function
        self._pool = ThreadPoolExecutor(threads, "score")
        self._free = threads
        self._most_requests, self._most_work = requests, work
        self._requests: set[_Request] = set()
        self._work = 0
        self._clients: dict[str, _Client] = {}
        self._time = 0  # of fair queueing: the `served` of what was begun last

    async def __call__(self, client: str, items: Sequence[Work]) -> Answers:
        """The answers to the items of one request, of which there is at least one.

        Raises:
            Busy: as much is waiting already, or this gave way to others.
        """
        loop = asyncio.get_running_loop()
        work = sum(one.work for one in items) if len(items) > 1 else 0
        self._make_room(client, work)
        mine = self._clients.setdefault(client, _Client(client, self._time))
        mine.served = max(mine.served, self._time)
        request = _Request(mine, work, items[0], loop.create_future())
        self._requests.add(request)
        self._work += work
        mine.work += work
        mine.requests += 1
        answers = []
        try:
            for i, one in enumerate(items):
                if i:
                    request.now, request.answer = one, loop.create_future()
                mine.queue.append(request)
                self._start()
                answers.append(await request.answer)
        except BaseException:
            self._remove(request)
            raise
        return Answers(answers, lambda: self._remove(request))

    def close(self) -> None:
        """Ends the threads when they have finished."""
        self._pool.shutdown()

    def _make_room(self, client: str, work: int) -> None:
        """Lets larger requests give way until there is room for one with that much work."""
        mine = self._clients.get(client) or _Client(client, 0)
        while not self._has_room(mine, work):
            most = max([mine, *self._clients.values()], key=lambda one: (one.work, one.requests))
            is_most = (most.work, most.requests) <= (mine.work + work, mine.requests + 1)
            if is_most or not self._is_fair(mine, work):
                most = mine
            largest = max(most.queue, key=lambda one: one.work, default=None)
            if largest is None or (most is mine and largest.work <= work):
                waiting = len(self._requests)
                raise Busy(f"{waiting} requests are waiting already; try again soon")
            most.queue.remove(largest)
            self._remove(largest)
            if not largest.answer.done():
                largest.answer.set_exception(Busy("smaller requests go first; try again soon"))

    def _has_room(self, mine: _Client, work: int) -> bool:
        if len(self._requests) >= self._most_requests:
            return False
        within = self._work + work <= self._most_work
        return not work or (within and self._is_fair(mine, work))

    def _is_fair(self, mine: _Client, work: int) -> bool:
        return not mine.work or mine.work + work <= self._most_work // 2

    def _remove(self, request: _Request) -> None:
        if request not in self._requests:
            return
        self._requests.remove(request)
        self._work -= request.work
        client = request.client
        client.work -= request.work
        client.requests -= 1
        if not client.requests and client.served <= self._time:
            self._clients.pop(client.name, None)

    def _start(self) -> None:
        if not self._free:
            return
        batch: list[_Request] = []
        work = questions = 0
        while following := self._following():
            now = following.queue[0].now
            small = questions + now.questions <= PART_ITEMS or work + now.work <= PART_WORK
            if batch and not small:
                break
            request = following.queue.popleft()
            if request.answer.done():  # cancelled: nobody waits for it any more
                continue
            self._time = following.served
            following.served += now.work
            work, questions = work + now.work, questions + now.questions
            batch.append(request)
        if not batch:
            return
        self._free -= 1
        loop = asyncio.get_running_loop()
        items = [request.now.item for request in batch]
        running = loop.run_in_executor(self._pool, self._function, items)
        running.add_done_callback(lambda done: self._finish([one.answer for one in batch], done))

    def _following(self) -> _Client | None:
        """The client whose turn it is."""
        waiting = (one for one in self._clients.values() if one.queue)
        return min(waiting, key=lambda one: one.served, default=None)

    def _finish(
        self,
        answers: Sequence[asyncio.Future[bytes]],
        done: asyncio.Future[Sequence[bytes | Exception]],
    ) -> None:
        self._free += 1
        failed = done.exception()
        found = [failed] * len(answers) if failed is not None else done.result()
        for answer, value in zip(answers, found, strict=True):
            if answer.done():
                continue
            if isinstance(value, bytes):
                answer.set_result(value)
            else:
                answer.set_exception(value)
        self._start()
