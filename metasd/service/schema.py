"""The bodies of requests, and their mistakes in one line."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    TypeAdapter,
    ValidationError,
)

from metasd.errors import nearest

Name = Annotated[str, Field(min_length=1, max_length=1000)]


class QueryBody(BaseModel):
    """Which entities complete (head, relation, ?), or (?, relation, tail)?"""

    model_config = ConfigDict(extra="forbid", strict=True, title="Query")

    relation: Name = Field(description="A relation's label.")
    head: Name | None = Field(None, description="Ask for tails of this entity: its id or label.")
    tail: Name | None = Field(None, description="Ask for heads of this entity: its id or label.")
    k: Annotated[int, Field(ge=1)] | None = Field(
        None, description="How many answers at most; by default 10."
    )
    candidates: Annotated[list[Name], Field(min_length=1, fail_fast=True)] | None = Field(
        None, description="The only entities to rank, known answers or not."
    )
    typed: bool = Field(
        False, description="Rank only entities that known triples have in that place."
    )
    keep_known: bool = Field(False, description="Also give what the graph says already.")


class ScoreBody(BaseModel):
    """How plausible is each triple?"""

    model_config = ConfigDict(extra="forbid", strict=True, title="Triples")

    triples: Annotated[list[tuple[Name, Name, Name]], Field(min_length=1, fail_fast=True)] = Field(
        description="Lists of head, relation and tail: ids or labels."
    )


class NeighborsBody(BaseModel):
    """Which entities have the most similar embeddings?"""

    model_config = ConfigDict(extra="forbid", strict=True, title="Neighbors")

    entity: Name = Field(description="An entity's id or label.")
    k: Annotated[int, Field(ge=1)] | None = Field(
        None, description="How many neighbors at most; by default 10."
    )


class BadBody(ValueError):
    """A body that holds no query; `syntax` where it is not even JSON."""

    def __init__(self, message: str, syntax: bool = False) -> None:
        super().__init__(message)
        self.syntax = syntax


def _shape(body: Any) -> str:
    return "batch" if isinstance(body, list) else "query"


Body = Annotated[
    Annotated[QueryBody, Tag("query")]
    | Annotated[list[QueryBody], Field(min_length=1, fail_fast=True), Tag("batch")],
    Discriminator(_shape),
]
_BODY: TypeAdapter[QueryBody | list[QueryBody]] = TypeAdapter(Body)
_QUERY = QueryBody.model_json_schema()
BODY_SCHEMA = {"oneOf": [_QUERY, {"type": "array", "items": _QUERY, "minItems": 1}]}


def read_queries(body: bytes) -> QueryBody | list[QueryBody]:
    """The query, or the list of queries, in a request's body.

    Raises:
        BadBody: it holds something else; the message says where, what was given and wanted.
    """
    try:
        found = _BODY.validate_json(body)
    except ValidationError as error:  # the first part of a place names a side of the union
        raise _bad_body(error, QueryBody, '{"head": "...", "relation": "..."}', 1) from None
    for i, query in enumerate(found if isinstance(found, list) else [found]):
        if (query.head is None) == (query.tail is None):
            given = "neither" if query.head is None else "both"
            where = f"[{i}]: " if isinstance(found, list) else ""
            raise BadBody(f"{where}a query has either a head or a tail; got {given}")
    return found


def read_body(kind: type[BaseModel], body: bytes) -> Any:
    """The object in a request's body; BadBody as `read_queries` raises it."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise _bad_body(error, kind, f'{{"{next(iter(kind.model_fields))}": ...}}') from None


def _bad_body(
    error: ValidationError, kind: type[BaseModel], example: str, skipped: int = 0
) -> BadBody:
    """One line for the first mistake; `skipped` parts of its place are not the body's own."""
    first = error.errors(include_url=False, include_context=False)[0]
    message = first["msg"]
    if first["type"] == "json_invalid":
        return BadBody(f"the body is not JSON: {message.removeprefix('Invalid JSON: ')}", True)
    path = first["loc"][skipped:]
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    where = where.removeprefix(".") or "the body"
    if first["type"] == "missing":
        return BadBody(f"{where} is missing")
    if first["type"] == "extra_forbidden":
        hint = nearest(str(path[-1]), kind.model_fields)
        what = "query" if kind is QueryBody else "request"
        return BadBody(f"{where[:80]} is no field of a {what}{hint}")
    if first["type"] == "model_type":
        message = f"should be an object such as {example}"
    message = re.sub("^(Input|String|List|Tuple) should", "should", message)
    return BadBody(f"{where} {message}; got {_shown(first['input'])}")


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."
