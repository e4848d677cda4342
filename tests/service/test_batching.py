"""Dynamic batching: what waits is answered together, clients take turns, the largest gives way."""

import asyncio
import threading
from collections.abc import Sequence

import pytest

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")

from metasd.service.batching import PART_ITEMS, PART_WORK, Busy, DynamicBatcher, Work


class Recorder:
    """Answers in capitals once it is released; remembers the batches."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.release = threading.Event()

    def __call__(self, items: Sequence[str]) -> list[bytes | Exception]:
        self.batches.append(list(items))
        self.release.wait(5)
        return [ValueError("bad") if item == "bad" else item.upper().encode() for item in items]


def small(name: str, work: int = 1) -> list[Work]:
    return [Work(name, work)]


def large(name: str, parts: int = 2) -> list[Work]:
    return [Work(f"{name}{i}", PART_WORK, PART_ITEMS) for i in range(parts)]


async def answers(
    recorder: Recorder, batcher: DynamicBatcher, *asked: tuple[str, list[Work]]
) -> list[list[bytes] | BaseException]:
    """What requests get that wait together for the one thread."""

    async def ask(client: str, items: list[Work]) -> list[bytes]:
        found = await batcher(client, items)
        found.sent()
        return found.parts

    waiting = []
    for client, items in asked:
        waiting.append(asyncio.create_task(ask(client, items)))
        await asyncio.sleep(0)
    await asyncio.sleep(0.01)
    recorder.release.set()
    found = await asyncio.gather(*waiting, return_exceptions=True)
    batcher.close()
    return found


def test_what_waits_for_a_thread_is_one_batch() -> None:
    recorder = Recorder()

    async def ask() -> list[list[bytes] | BaseException]:
        batcher = DynamicBatcher(recorder, 1, 10, 100 * PART_WORK)
        asked = ["first", "second", "bad", "third"]
        return await answers(
            recorder, batcher, *[("me", small(name)) for name in asked], ("me", large("L", 1))
        )

    found = asyncio.run(ask())
    assert recorder.batches == [["first"], ["second", "bad", "third"], ["L0"]]
    assert found[:2] == [[b"FIRST"], [b"SECOND"]]
    assert str(found[2]) == "bad"
    assert found[3:] == [[b"THIRD"], [b"L0"]]


def test_a_client_that_comes_anew_is_served_next() -> None:
    recorder = Recorder()

    async def ask() -> None:
        batcher = DynamicBatcher(recorder, 1, 10, 100 * PART_WORK)
        many = [("many", large(name)) for name in "ABC"]
        await answers(recorder, batcher, *many, ("few", large("x", 1)))

    asyncio.run(ask())
    order = [item for batch in recorder.batches for item in batch]
    assert order == ["A0", "x0", "B0", "C0", "A1", "B1", "C1"]


def test_where_too_much_waits_the_largest_of_the_largest_client_gives_way() -> None:
    recorder = Recorder()

    async def ask() -> list[list[bytes] | BaseException]:
        batcher = DynamicBatcher(recorder, 1, 4, 100 * PART_WORK)
        many = [("many", large(name, parts)) for name, parts in (("A", 2), ("B", 5), ("C", 3))]
        few = [("few", small("x")), ("few", small("y")), ("few", small("z"))]
        return await answers(recorder, batcher, *many, *few, ("many", large("D", 9)))

    found = asyncio.run(ask())
    assert [isinstance(one, Busy) for one in found] == [False, True, True] + [False] * 3 + [True]
    assert found[0] == [b"A0", b"A1"]
    assert "requests are waiting already" in str(found[-1])


def test_no_more_work_waits_than_may() -> None:
    recorder = Recorder()

    async def ask() -> list[list[bytes] | BaseException]:
        batcher = DynamicBatcher(recorder, 1, 100, 8 * PART_WORK)
        mine = [("me", large("A")), ("me", large("B", 3)), ("me", small("x"))]
        others = [("you", large("C", 5)), ("she", large("D", 2)), ("she", large("E", 2))]
        return await answers(recorder, batcher, *mine, *others)

    found = asyncio.run(ask())
    assert [isinstance(one, Busy) for one in found] == [False, True, False, True, False, False]


def test_an_answer_that_is_not_sent_counts() -> None:
    recorder = Recorder()
    recorder.release.set()

    async def ask() -> None:
        batcher = DynamicBatcher(recorder, 1, 100, 4 * PART_WORK)
        held = await batcher("me", large("A"))
        with pytest.raises(Busy):
            await batcher("me", large("B"))
        await batcher("me", small("x"))
        held.sent()
        await batcher("me", large("B"))

    asyncio.run(ask())


def test_a_request_that_nobody_waits_for_leaves_no_trace() -> None:
    recorder = Recorder()

    async def ask() -> None:
        batcher = DynamicBatcher(recorder, 1, 2, 100 * PART_WORK)
        first = asyncio.create_task(batcher("a", small("first")))
        second = asyncio.create_task(batcher("b", small("second")))
        await asyncio.sleep(0.01)
        second.cancel()
        await asyncio.sleep(0)
        third = asyncio.create_task(batcher("c", small("third")))
        await asyncio.sleep(0)
        recorder.release.set()
        assert (await first).parts == [b"FIRST"]
        assert (await third).parts == [b"THIRD"]

    asyncio.run(ask())
    assert recorder.batches == [["first"], ["third"]]


def test_a_function_that_fails_fails_its_whole_batch() -> None:
    def fail(items: Sequence[str]) -> list[bytes | Exception]:
        raise RuntimeError("no model")

    async def ask() -> None:
        batcher = DynamicBatcher(fail, threads=1, requests=2, work=10)
        with pytest.raises(RuntimeError, match="no model"):
            await batcher("me", small("x"))
        batcher.close()

    asyncio.run(ask())
