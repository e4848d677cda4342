"""Dynamic batching: what waits is answered together, errors go to whom they belong."""

import asyncio
import threading
from collections.abc import Sequence

import pytest

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
pytest.importorskip("httptools", reason="the extra `serve` is not installed")

from metasd.service.batching import Busy, DynamicBatcher


def test_what_waits_for_a_thread_is_one_batch() -> None:
    batches: list[int] = []
    release = threading.Event()

    def answer(bodies: Sequence[bytes]) -> list[bytes | Exception]:
        batches.append(len(bodies))
        release.wait(5)
        return [ValueError("bad") if body == b"bad" else body.upper() for body in bodies]

    async def ask() -> list[bytes | BaseException]:
        batcher = DynamicBatcher(answer, threads=1, limit=6)
        bodies = [b"first", b"second", b"bad", b"x" * 4000, b"y" * 4000, b"last"]
        waiting = [asyncio.create_task(batcher(body)) for body in bodies]
        await asyncio.sleep(0.01)
        with pytest.raises(Busy, match="6 requests are waiting already"):
            await batcher(b"one more")
        release.set()
        found = await asyncio.gather(*waiting, return_exceptions=True)
        batcher.close()
        return found

    found = asyncio.run(ask())
    assert batches == [1, 3, 2]  # up to 4096 bytes
    assert found[:2] == [b"FIRST", b"SECOND"]
    assert str(found[2]) == "bad"
    assert [part[:1] for part in found[3:]] == [b"X", b"Y", b"L"]


def test_a_function_that_fails_fails_its_whole_batch() -> None:
    def fail(bodies: Sequence[bytes]) -> list[bytes | Exception]:
        raise RuntimeError("no model")

    async def ask() -> None:
        batcher = DynamicBatcher(fail, threads=1, limit=2)
        with pytest.raises(RuntimeError, match="no model"):
            await batcher(b"x")
        batcher.close()

    asyncio.run(ask())
