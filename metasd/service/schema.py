"""The body of `POST /predict`: one query or a list of them; mistakes are reported in one line."""

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
        None, description="The only entities to rank."
    )
    keep_known: bool = Field(False, description="Also give what the graph says already.")


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
    except ValidationError as error:
        raise _bad_body(error) from None
    for i, query in enumerate(found if isinstance(found, list) else [found]):
        if (query.head is None) == (query.tail is None):
            given = "neither" if query.head is None else "both"
            where = f"[{i}]: " if isinstance(found, list) else ""
            raise BadBody(f"{where}a query has either a head or a tail; got {given}")
    return found


def _bad_body(error: ValidationError) -> BadBody:
    first = error.errors(include_url=False, include_context=False)[0]
    message = first["msg"]
    if first["type"] == "json_invalid":
        return BadBody(f"the body is not JSON: {message.removeprefix('Invalid JSON: ')}", True)
    path = first["loc"][1:]  # the first names a side of the union
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    where = where.removeprefix(".") or "the body"
    if first["type"] == "missing":
        return BadBody(f"{where} is missing")
    if first["type"] == "extra_forbidden":
        hint = nearest(str(path[-1]), QueryBody.model_fields)
        return BadBody(f"{where[:80]} is no field of a query{hint}")
    if first["type"] == "model_type":
        message = 'should be an object such as {"head": "...", "relation": "..."}'
    message = re.sub("^(Input|String|List) should", "should", message)
    return BadBody(f"{where} {message}; got {_shown(first['input'])}")


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."
