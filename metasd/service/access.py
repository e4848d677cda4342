"""Who may ask: names of this host, a token; and that no answer is kept on its way."""

from __future__ import annotations

import hmac
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from metasd.errors import InputError
from metasd.files import read_file

LOOPBACK = ("localhost", "127.0.0.1", "::1")
_LARGEST_TOKEN = 4096
_OPEN_PATHS = ("/",)  # the page without any data; it asks its reader for the token


@dataclass(frozen=True)
class Access:
    """Who may ask.

    Attributes:
        hosts: names and addresses that a request may be sent to (`Host`); `*` for any. A page on
            another site can reach the service by a name of its own that leads here, and would be
            given answers.
        token: what `Authorization: Bearer` must hold; None where anyone may ask.
    """

    hosts: Collection[str] = LOOPBACK
    token: str | None = None


def read_token(path: Path) -> str:
    """The token in a file: its only line, of visible ASCII characters."""
    try:
        token = read_file(path, _LARGEST_TOKEN).decode("ascii").strip()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        token = ""
    if not token or not all("!" <= mark <= "~" for mark in token):
        raise InputError(f"{path}: wanted one line of visible ASCII characters, the token")
    return token


class Guard:
    """ASGI middleware that refuses what `access` does not allow."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._hosts = {host.lower() for host in access.hosts}
        self._token = None if access.token is None else f"bearer {access.token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_uncached(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).setdefault("Cache-Control", "no-store")
            await send(message)

        answer = self._app
        headers = Headers(scope=scope)
        if not self._is_own_name(headers.getlist("host")):
            answer = JSONResponse({"error": "not a host of this service (--allowed-host)"}, 400)
        elif scope["path"] not in _OPEN_PATHS and not self._may(headers.getlist("authorization")):
            wanted = {"WWW-Authenticate": "Bearer"}
            message = "wanted the header Authorization: Bearer TOKEN"
            answer = JSONResponse({"error": message}, 401, wanted)
        await answer(scope, receive, send_uncached)

    def _is_own_name(self, hosts: Iterable[str]) -> bool:
        if "*" in self._hosts:
            return True
        names = [_without_port(host) for host in hosts]
        return len(names) == 1 and names[0] in self._hosts

    def _may(self, given: list[str]) -> bool:
        if self._token is None:
            return True
        scheme, _, token = (given[0] if len(given) == 1 else "").partition(" ")
        found = f"{scheme.lower()} {token.strip()}".encode()
        return hmac.compare_digest(found, self._token)


def _without_port(host: str) -> str:
    name = host.strip().lower()
    if name.startswith("[") and "]" in name:
        return name[1:].partition("]")[0]
    return name.partition(":")[0]
