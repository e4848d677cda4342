"""The ASGI application: paths, limits, and the answers to mistakes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib import resources
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

import metasd
from metasd.compressed import CompressedModel
from metasd.compressed.table import default_threads
from metasd.errors import InputError

from .access import Access, Guard
from .batching import Answers, Busy, DynamicBatcher
from .docs import add_docs
from .metrics import Measured, Metrics
from .predict import Predictor
from .protocol import client_name
from .schema import BODY_SCHEMA, BadBody, NeighborsBody, ScoreBody

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'unsafe-inline'; style-src "
    "'unsafe-inline'; img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


_BUSY_SECONDS = 0.5  # a client that asks again at once would keep the event loop busy by itself


@dataclass(frozen=True)
class Limits:
    """What one request, and all of them together, may ask for.

    Attributes:
        batch: queries in a request.
        k: answers to a query.
        body: bytes of a request's body.
        body_seconds: how long a client may take to send it.
        concurrency: requests with a whole body and no answer yet; of more, some get a 503.
        work: scores (queries times entities) in those that are large together, and what else takes
            time counted as scores, 600 for each answer; half of it for several of one client.
        threads: that score.
    """

    batch: int = 256
    k: int = 100
    body: int = 256 * 1024
    body_seconds: float = 10
    concurrency: int = 64
    work: int = 1 << 28
    threads: int = field(default_factory=default_threads)


class Error(BaseModel):
    """What was wrong with a request."""

    error: str


class Entity(BaseModel):
    """An entity's id in the data, and its name for people, which others may have too."""

    id: str
    label: str


def create_app(
    model: CompressedModel, limits: Limits | None = None, access: Access | None = None
) -> FastAPI:
    """The service of a model as an ASGI application.

    Connections are not its part: behind another server than `serve`, that one limits them.
    """
    limits, access = limits or Limits(), access or Access()
    predictor = Predictor(model, limits.batch, limits.k, limits.work)
    metrics = Metrics()
    most = (limits.concurrency, limits.work)
    predict_batcher = DynamicBatcher(predictor.respond, limits.threads, *most)
    score_batcher = DynamicBatcher(predictor.scores, 1, *most)
    neighbors_batcher = DynamicBatcher(predictor.neighbors, 1, *most)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        for batcher in (predict_batcher, score_batcher, neighbors_batcher):
            batcher.close()

    app = FastAPI(
        title="metasd",
        version=metasd.__version__,
        description="Which entity completes a triple?",
        docs_url=None,  # FastAPI's own page loads scripts from elsewhere: see `add_docs`
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
        responses=_errors(400, 422, *([401] if access.token else [])),
    )

    @app.post("/predict", openapi_extra=_json_body(BODY_SCHEMA), responses=_BODY_ERRORS)
    async def predict(request: Request) -> Response:
        """The entities that complete a triple best; a list of questions has a list of answers."""
        parts, listed = predictor.asked(await _read_body(request, limits))
        answers = await predict_batcher(_client(request), parts)
        return _Parts(answers) if len(parts) > 1 else _json(answers, listed)

    @app.post(
        "/score",
        openapi_extra=_json_body(ScoreBody.model_json_schema()),
        responses=_BODY_ERRORS,
    )
    async def score(request: Request) -> Response:
        """The scores of triples, in their order; higher is more plausible within one relation."""
        asked = predictor.triples_asked(await _read_body(request, limits))
        return _json(await score_batcher(_client(request), [asked]))

    @app.post(
        "/neighbors",
        openapi_extra=_json_body(NeighborsBody.model_json_schema()),
        responses=_BODY_ERRORS,
    )
    async def neighbors(request: Request) -> Response:
        """The entities whose embeddings are most similar, by cosine."""
        asked = predictor.neighbors_asked(await _read_body(request, limits))
        return _json(await neighbors_batcher(_client(request), [asked]))

    _add_reading(app, predictor, metrics)
    add_docs(app)
    _add_error_answers(app)
    app.add_middleware(Guard, access=access)
    app.add_middleware(
        Measured, metrics=metrics, paths={getattr(route, "path", "") for route in app.routes}
    )
    return app


def _add_reading(app: FastAPI, predictor: Predictor, metrics: Metrics) -> None:
    """The paths that only read what is there."""
    page = resources.files(__package__).joinpath("page.html").read_text("utf-8")

    @app.get("/entities")
    async def entities(
        prefix: Annotated[str, Query(max_length=1000)] = "",
        limit: Annotated[int, Query(ge=1, le=1000)] = 20,
    ) -> list[Entity]:
        """Entities of which the id, the label, or a word of either begins so."""
        return [Entity(**found) for found in predictor.entities(prefix, limit)]

    @app.get("/relations")
    async def relations() -> list[str]:
        """The labels of all relations."""
        return predictor.relations

    @app.get("/healthz")
    async def healthz() -> dict[str, Any]:
        """Whether the service is up, and what it serves."""
        return {"status": "ok", **predictor.about}

    @app.get("/metrics", response_class=PlainTextResponse)
    async def read_metrics() -> PlainTextResponse:
        return PlainTextResponse(metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def index() -> HTMLResponse:
        return HTMLResponse(page, headers=_HEADERS)


def _add_error_answers(app: FastAPI) -> None:
    """Every mistake is answered with a status and one line."""

    @app.exception_handler(InputError)
    async def unknown(_: Request, error: InputError) -> JSONResponse:
        return _error(422, str(error))

    @app.exception_handler(BadBody)
    async def bad_body(_: Request, error: BadBody) -> JSONResponse:
        return _error(400 if error.syntax else 422, str(error))

    @app.exception_handler(Busy)
    async def busy(_: Request, error: Busy) -> JSONResponse:
        await asyncio.sleep(_BUSY_SECONDS)
        return _error(503, str(error), {"Retry-After": "1"})

    @app.exception_handler(RequestValidationError)
    async def bad_query(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        return _error(422, f"{first['loc'][-1]}: {first['msg']}; got {first['input']!r:.60}")

    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: HTTPException) -> JSONResponse:
        return _error(error.status_code, error.detail, error.headers)


async def _read_body(request: Request, limits: Limits) -> bytes:
    """The body of a request, refused when it is no JSON, too large, or too slow."""
    kind = request.headers.get("content-type", "")
    if kind.partition(";")[0].strip().lower() != "application/json":
        raise HTTPException(
            415, f"content-type must be application/json; got {kind[:60] or 'none'}"
        )
    too_large = HTTPException(413, f"a body has at most {limits.body} bytes")
    if int(request.headers.get("content-length", 0)) > limits.body:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(limits.body_seconds):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limits.body:
                    raise too_large
    except TimeoutError:
        raise HTTPException(408, f"the body took over {limits.body_seconds} seconds") from None
    except ClientDisconnect:
        raise HTTPException(400, "the client left before the end of the body") from None
    return bytes(body)


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What the schema says of answers that are errors."""
    return {status: {"model": Error} for status in statuses}


_BODY_ERRORS = _errors(408, 413, 415, 503)


def _client(request: Request) -> str:
    """Whose request it is; behind a proxy on this machine, as its X-Forwarded-For says."""
    return client_name(request.client.host if request.client else "")


def _json_body(schema: dict[str, Any]) -> dict[str, Any]:
    return {"requestBody": {"content": {"application/json": {"schema": schema}}, "required": True}}


def _json(answers: Answers, listed: bool = False) -> Response:
    answers.sent()
    [body] = answers.parts
    return Response(b"[%s]" % body if listed else body, media_type="application/json")


class _Parts(Response):
    """A list of answers in several parts, which its client may take slowly."""

    media_type = "application/json"

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        commas = len(answers.parts) - 1
        size = sum(map(len, answers.parts)) + commas + 2
        super().__init__(headers={"content-length": str(size)})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
            await send(start)
            before = b"["
            for part in self._answers.parts:
                await send({"type": "http.response.body", "body": before + part, "more_body": True})
                before = b","
            await send({"type": "http.response.body", "body": b"]"})
        finally:
            self._answers.sent()


def _error(status: int, message: str, headers: Any = None) -> JSONResponse:
    return JSONResponse({"error": message}, status, headers)
