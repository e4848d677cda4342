"""Attacks on a running `metasd serve` from a client of its own: one function per attack.

python tests/attacks/service_attacks.py NAME HOST:PORT SECONDS SIZE
"""

import asyncio
import json
import resource
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

ATTACKER = "127.0.0.1"
_CHUNKED = (
    b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n"
)
_PIECE = 1 << 16


class Target:
    """A server under attack, until when, and how much of the attack: 1 in large."""

    def __init__(self, address: str, seconds: float, size: float) -> None:
        host, port = address.rsplit(":", 1)
        self.host, self.port = host, int(port)
        self.end = time.monotonic() + seconds
        self.size = size

    def number(self, of: int) -> int:
        return max(1, int(of * self.size))

    @property
    def over(self) -> bool:
        return time.monotonic() > self.end

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(self.host, self.port, local_addr=(ATTACKER, 0))

    async def pour(self, start: bytes, piece: bytes, total: int) -> None:
        """Sends `start`, then `piece` again and again; anew where the server ends it."""
        piece *= max(1, _PIECE // len(piece))
        sent = 0
        while sent < total and not self.over:
            with suppress(OSError, TimeoutError):
                _, writer = await self.connect()
                writer.write(start)
                while sent < total and not self.over:
                    writer.write(piece)
                    sent += len(piece)
                    await asyncio.wait_for(writer.drain(), 1)
                writer.close()

    async def hold(self, count: int, start: bytes, drop: bytes = b"") -> None:
        """Keeps `count` connections that sent `start`, each sending `drop` every second."""

        async def one() -> None:
            while not self.over:
                with suppress(OSError, TimeoutError):
                    reader, writer = await self.connect()
                    writer.write(start)
                    while not self.over:
                        with suppress(TimeoutError):
                            if not await asyncio.wait_for(reader.read(_PIECE), 1):
                                break  # closed by the server: once more
                        writer.write(drop)
                    writer.close()
                await asyncio.sleep(0.05)

        await asyncio.gather(*(one() for _ in range(count)))

    async def read_nothing(self, clients: int, request: bytes) -> None:
        """Clients that ask and never take an answer; they come back when they are refused."""

        async def one() -> None:
            while not self.over:
                with suppress(OSError):
                    _, writer = await self.connect()
                    writer.transport.pause_reading()  # type: ignore[attr-defined]
                    writer.write(request)
                    while not (self.over or writer.is_closing()):
                        await asyncio.sleep(0.5)
                    writer.close()

        await asyncio.gather(*(one() for _ in range(clients)))

    async def repeat(self, count: int, request: bytes, answers: int = 1) -> None:
        """`count` connections that send a request and read its answers, again and again."""

        async def one() -> None:
            while not self.over:
                with suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
                    reader, writer = await self.connect()
                    while not self.over:
                        writer.write(request)
                        for _ in range(answers):
                            await asyncio.wait_for(_answer(reader), 10)
                await asyncio.sleep(0.01)

        await asyncio.gather(*(one() for _ in range(count)))


async def _answer(reader: asyncio.StreamReader) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
    await reader.readexactly(int(length or 0))


async def trailers(target: Target) -> None:
    """93 MB of trailers `a:` behind a chunked body."""
    await target.pour(_CHUNKED + b"0\r\n", b"a:\r\n", target.number(93_000_000))


async def trailer_of_one_value(target: Target) -> None:
    """One trailer whose value does not end."""
    await target.pour(_CHUNKED + b"0\r\na: ", b"x", target.number(93_000_000))


async def trailers_of_a_get(target: Target) -> None:
    """The same behind `GET /healthz`."""
    start = _CHUNKED.replace(b"POST /predict", b"GET /healthz") + b"0\r\n"
    await target.pour(start, b"a:\r\n", target.number(93_000_000))


async def chunk_extension(target: Target) -> None:
    """A chunk whose extension does not end."""
    await target.pour(_CHUNKED + b"1;a=", b"x", target.number(93_000_000))


async def endless_header(target: Target) -> None:
    """A header whose value does not end."""
    await target.pour(b"GET / HTTP/1.1\r\nHost: localhost\r\na: ", b"x", target.number(93_000_000))


async def endless_headers(target: Target) -> None:
    """Headers `a:` without end."""
    await target.pour(
        b"GET / HTTP/1.1\r\nHost: localhost\r\n", b"a:\r\n", target.number(93_000_000)
    )


async def endless_body(target: Target) -> None:
    """A body much longer than may be, sent on after its refusal."""
    piece = b"4000\r\n" + b" " * 0x4000 + b"\r\n"
    await target.pour(_CHUNKED, piece, target.number(93_000_000))


async def half_open(target: Target) -> None:
    """2,000 connections that never finish a header, a byte per second each."""
    start = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nx: "
    await target.hold(target.number(2000), start, b"y")


async def idle(target: Target) -> None:
    """2,000 connections that send nothing."""
    await target.hold(target.number(2000), b"")


async def slow_bodies(target: Target) -> None:
    """2,000 connections whose body comes a byte per second."""
    start = (
        b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: 1000\r\n\r\n["
    )
    await target.hold(target.number(2000), start, b" ")


async def unread_answers(target: Target) -> None:
    """200 connections that ask for all of Swagger UI 20 times and read nothing."""
    request = b"GET /docs/static/swagger-ui-bundle.js HTTP/1.1\r\nHost: localhost\r\n\r\n" * 20
    await target.read_nothing(target.number(200), request)


async def _batch(target: Target) -> bytes:
    """A request with 256 questions, 100 answers to each."""
    reader, writer = await target.connect()
    found = []
    for path in (b"/entities?limit=256", b"/relations"):
        writer.write(b"GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n" % path)
        head = await reader.readuntil(b"\r\n\r\n")
        length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
        found.append(json.loads(await reader.readexactly(int(length))))
    writer.close()
    entities, relations = found
    questions = [
        {"head": entity["id"], "relation": relations[i % len(relations)], "k": 100}
        for i, entity in enumerate(entities)
    ]
    body = json.dumps(questions).encode()
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return b"%sContent-Length: %d\r\n\r\n%s" % (head, len(body), body)


async def overload(target: Target) -> None:
    """40 clients with batches of 256 questions, 100 answers to each."""
    await target.repeat(target.number(40), await _batch(target))


async def unread_batches(target: Target) -> None:
    """100 clients that ask for such batches and read nothing."""
    await target.read_nothing(target.number(100), await _batch(target))


async def pipelining(target: Target) -> None:
    """1,000 requests in one write, from four connections."""
    request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nx-padding: %s\r\n\r\n" % (b"y" * 70)
    await target.repeat(4, request * target.number(1000), target.number(1000))


async def large_headers(target: Target) -> None:
    """98 kB of headers."""
    header = b"x-padding: %s\r\n" % (b"y" * 968)
    request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + header * 100 + b"\r\n"
    await target.repeat(8, request)


async def nonsense(target: Target) -> None:
    """Random bytes, and requests that are broken off at a random place."""
    import random

    draw = random.Random(0)
    while not target.over:
        with suppress(OSError):
            _, writer = await target.connect()
            cut = _CHUNKED[: draw.randrange(len(_CHUNKED))]
            writer.write(draw.choice([draw.randbytes(draw.randrange(1, 3000)), cut]))
            await writer.drain()
            writer.close()


Attack = Callable[[Target], Awaitable[None]]
ATTACKS: dict[str, Attack] = {
    attack.__name__: attack
    for attack in (
        trailers,
        trailer_of_one_value,
        trailers_of_a_get,
        chunk_extension,
        endless_header,
        endless_headers,
        endless_body,
        half_open,
        idle,
        slow_bodies,
        unread_answers,
        overload,
        unread_batches,
        pipelining,
        large_headers,
        nonsense,
    )
}


def main() -> None:
    name, address, seconds, size = sys.argv[1:]
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(8192, most), most))

    async def bounded() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # the server hung up
        with suppress(TimeoutError):
            attack = ATTACKS[name](Target(address, float(seconds), float(size)))
            await asyncio.wait_for(attack, float(seconds) + 5)  # type: ignore[arg-type]

    asyncio.run(bounded())


if __name__ == "__main__":
    main()
