"""The service over sockets: its answers, its limits, and nonsense that it must outlive."""

import asyncio
import json
import random
from collections.abc import Callable
from typing import Any

import pytest

from metasd.compressed import CompressedModel, Query
from metasd.data.load import load_graph
from service_model import call, exchange, post

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")


def ask(address: str, body: Any) -> tuple[int, Any]:
    return call(address, "POST", "/predict", body)[:2]


def test_one_query(address: str, model: CompressedModel) -> None:
    head, relation = model.entity_labels[3], model.relation_labels[1]
    for side in ("head", "tail"):
        status, found = ask(address, {side: head, "relation": relation, "k": 5})
        assert status == 200
        assert found[side] == {"id": head, "label": model.entity_labels.human(3)}
        assert found["relation"] == relation
        wanted = model.answers([Query(**{"head": None, side: head, "relation": relation})], 5)[0]
        assert [answer["id"] for answer in found["answers"]] == [one.entity for one in wanted]
        for answer, one in zip(found["answers"], wanted, strict=True):
            assert answer["label"] == one.label
            assert answer["score"] == pytest.approx(one.score, rel=1e-5)
            assert answer["probability"] == pytest.approx(one.probability, rel=1e-4)
    assert len(ask(address, {"head": head, "relation": relation})[1]["answers"]) == 10


def test_a_batch_of_unlike_queries(address: str, model: CompressedModel) -> None:
    labels, relation = list(model.entity_labels), model.relation_labels[0]
    batch: list[dict[str, Any]] = [
        {"head": labels[0], "relation": relation, "k": 3},
        {"tail": labels[1], "relation": relation, "k": 2, "keep_known": True},
        {"head": labels[2], "relation": relation, "candidates": [labels[9], labels[5], labels[9]]},
        {"head": labels[4], "relation": relation, "k": 3},
    ]
    status, found = ask(address, batch)
    assert status == 200
    assert found == [ask(address, query)[1] for query in batch]
    assert {answer["id"] for answer in found[2]["answers"]} <= {labels[9], labels[5]}


def test_known_answers_are_counted_or_marked(address: str, model: CompressedModel) -> None:
    graph = load_graph("families:120")
    head, relation, tail = graph.train[0].tolist()
    query = {"head": graph.entities[head], "relation": graph.relations[relation], "k": 50}
    known = {graph.entities[i] for i in graph.known().answers(head, relation)}
    found = ask(address, query)[1]
    assert found["hidden"] == len(known) > 0
    assert not known & {answer["id"] for answer in found["answers"]}
    assert not any(answer["known"] for answer in found["answers"])
    named = ask(address, query | {"candidates": [graph.entities[tail]]})[1]
    assert [(one["id"], one["known"]) for one in named["answers"]] == [(graph.entities[tail], True)]
    assert named["hidden"] == 0
    typed = ask(address, query | {"typed": True, "keep_known": True})[1]["answers"]
    triples = graph.train[graph.train[:, 1] == relation], graph.valid, graph.test
    tails = {graph.entities[t] for part in triples for _, r, t in part if r == relation}
    assert {answer["id"] for answer in typed} <= tails
    assert len(typed) == min(50, len(tails))
    error = ask(address, query | {"typed": True, "candidates": [graph.entities[0]]})
    assert error == (422, {"error": "give either candidates or typed"})


def test_scores_and_neighbors(address: str, model: CompressedModel) -> None:
    triples = [[model.entity_labels[i], model.relation_labels[0], "Nobody"] for i in (3, 4)]
    status, found, _ = call(address, "POST", "/score", {"triples": triples})
    assert (status, found["error"]) == (422, '[0]: no entity "Nobody"')
    for triple in triples:
        triple[2] = model.entity_labels[5]
    status, found, _ = call(address, "POST", "/score", {"triples": triples})
    wanted = model.score([(head, relation, tail) for head, relation, tail in triples])
    assert (status, found["scores"]) == (200, pytest.approx(wanted.tolist(), rel=1e-5))
    name = model.entity_labels[3]
    status, found, _ = call(address, "POST", "/neighbors", {"entity": name, "k": 4})
    assert status == 200
    assert found["entity"]["id"] == name
    assert [(one["label"], one["cosine"]) for one in found["neighbors"]] == [
        (label, pytest.approx(cosine, rel=1e-5)) for label, cosine in model.neighbors(name, 4)
    ]


OTHER_MISTAKES = [
    ("/score", [], "the body should be an object such as"),
    ("/score", {"triples": [["a", "b"]]}, "triples[0][2] is missing"),
    ("/score", {"triples": [["a", "b", 3]]}, "triples[0][2] should be a valid string; got 3"),
    ("/score", {"triples": [["a", "b", "c"]] * 21}, "at most 20 triples; got 21"),
    ("/neighbors", {}, "entity is missing"),
    ("/neighbors", {"entity": "a", "kk": 1}, 'no field of a request; did you mean "k"?'),
    ("/neighbors", {"entity": "Nobody Qx"}, 'no entity "Nobody Qx"'),
]


@pytest.mark.parametrize(("path", "body", "message"), OTHER_MISTAKES)
def test_a_mistake_in_another_body(address: str, path: str, body: Any, message: str) -> None:
    status, found, _ = call(address, "POST", path, body)
    assert status == 422
    assert message in found["error"]


def test_the_documentation_needs_no_other_server(address: str) -> None:
    pytest.importorskip("fastapi_offline")
    status, page, headers = call(address, "GET", "/docs")
    assert status == 200
    assert "//" not in page.replace("<!DOCTYPE", "").partition("<script>")[0]
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    for name in ("swagger-ui-bundle.js", "swagger-ui.css"):
        assert f"docs/static/{name}" in page
        assert call(address, "GET", f"/docs/static/{name}")[0] == 200
    schema = call(address, "GET", "/openapi.json")[1]
    assert {"/predict", "/score", "/neighbors"} <= set(schema["paths"])


def test_without_swagger_ui_the_page_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastapi import FastAPI
    from starlette.exceptions import HTTPException

    from metasd.service import docs

    monkeypatch.setattr(docs, "_PACKAGE", "not_installed")
    app = FastAPI(docs_url=None)
    docs.add_docs(app)
    (route,) = (route for route in app.routes if getattr(route, "path", "") == "/docs")
    with pytest.raises(HTTPException, match="pip install fastapi-offline"):
        asyncio.run(route.endpoint())  # type: ignore[attr-defined]


def test_search_relations_and_health(address: str, model: CompressedModel) -> None:
    name = model.entity_labels.human(7)
    first = name.split()[0].upper()
    status, found, _ = call(address, "GET", f"/entities?prefix={first}&limit=50")
    assert status == 200
    assert {"id": model.entity_labels[7], "label": name} in found
    assert all(first.lower() in f"{one['label']} {one['id']}".lower() for one in found)
    assert len(call(address, "GET", "/entities?limit=3")[1]) == 3
    assert call(address, "GET", "/relations")[1] == list(model.relation_labels)
    status, health, _ = call(address, "GET", "/healthz")
    assert (status, health["status"], health["entities"]) == (200, "ok", model.num_entities)


def test_metrics_count_every_request(address: str) -> None:
    def count(line: str) -> int:
        text = call(address, "GET", "/metrics")[1]
        found = [row for row in text.splitlines() if row.startswith(line + " ")]
        return int(found[0].split()[1]) if found else 0

    ok = 'metasd_requests_total{path="/healthz",status="200"}'
    lost = 'metasd_requests_total{path="other",status="404"}'
    timed = 'metasd_request_seconds_bucket{path="/healthz",le="+Inf"}'
    before = [count(line) for line in (ok, lost, timed)]
    call(address, "GET", "/healthz")
    call(address, "GET", "/healthz/none")
    assert [count(line) for line in (ok, lost, timed)] == [value + 1 for value in before]
    assert count("metasd_requests_in_flight") == 1


MISTAKES: list[tuple[Any, int, str]] = [
    (b"", 415, "content-type must be application/json; got none"),
    (b"{", 400, "not JSON"),
    (b"\xff\xfe\x00", 400, "not JSON"),
    (b"[" * 5000, 400, "recursion limit"),
    (b'{"head": "x", "relation": "y", "k": NaN}', 422, "k should be a valid integer; got NaN"),
    ([], 422, "at least 1 item"),
    (3, 422, "should be an object such as"),
    ({}, 422, "relation is missing"),
    ({"relation": "parent_of"}, 422, "either a head or a tail; got neither"),
    ({"relation": "parent_of", "head": "a", "tail": "b"}, 422, "got both"),
    ({"relation": "parent_of", "head": 3}, 422, "head should be a valid string; got 3"),
    ({"relation": "parent_of", "head": "a", "k": 0}, 422, "k should be greater than or equal to 1"),
    ({"relation": "parent_of", "head": "a", "k": 51}, 422, "k must be 1 ... 50; got 51"),
    ({"relation": "parent_of", "head": "a", "k": 10**30}, 422, "k must be 1 ... 50; got 1000"),
    ({"relation": "parent_of", "head": "a", "kk": 1}, 422, "kk is no field of a query; did"),
    ({"relation": "parent_of", "head": "Nobody Qx"}, 422, 'no entity "Nobody Qx"'),
    ({"relation": "parent_off", "head": "a"}, 422, 'did you mean "parent_of"'),
    ([{"relation": "parent_of", "head": "a"}] * 21, 422, "at most 20 queries; got 21"),
    (b" " * 20001, 413, "at most 20000 bytes"),
]


@pytest.mark.parametrize(("body", "status", "message"), MISTAKES)
def test_a_mistake_is_reported(address: str, body: Any, status: int, message: str) -> None:
    found = ask(address, body)
    assert found[0] == status
    assert message in found[1]["error"]


def test_mistakes_in_a_batch_say_where(address: str, model: CompressedModel) -> None:
    good = {"head": model.entity_labels[0], "relation": model.relation_labels[0]}
    assert ask(address, [good, good | {"head": "Nobody"}])[1]["error"].startswith("[1]: no entity")
    assert "[1].k should be" in ask(address, [good, good | {"k": -1}])[1]["error"]
    both = ask(address, [good, good | {"tail": "x"}])[1]["error"]
    assert both.startswith("[1]: a query has either")


def test_other_paths_and_types(address: str) -> None:
    assert call(address, "GET", "/predict")[0] == 405
    assert call(address, "GET", "/predict/")[0] == 404
    assert call(address, "GET", "/entities?limit=0")[0] == 422
    status, found, _ = call(address, "POST", "/predict", b"{}", **{"Content-Type": "text/plain"})
    assert (status, "got text/plain" in found["error"]) == (415, True)


def nonsense(draw: random.Random, relation: str) -> bytes:
    """A request that no server should accept."""

    def value(depth: int = 0) -> Any:
        kinds: list[Callable[[], Any]] = [
            lambda: None,
            lambda: draw.choice([True, False]),
            lambda: draw.choice([0, -1, 10**9, 2**63, -(10**40), 1e308, 0.5]),
            lambda: draw.choice([float("nan"), float("inf")]),
            lambda: "".join(chr(draw.randrange(1, 0xD7FF)) for _ in range(draw.randrange(40))),
            lambda: [value(depth + 1) for _ in range(draw.randrange(4 - depth))],
            lambda: {
                str(draw.random()): value(depth + 1) for _ in range(draw.randrange(4 - depth))
            },
        ]
        return draw.choice(kinds)()

    kind = draw.randrange(12)
    if kind == 0:
        return post(draw.randbytes(draw.randrange(1, 3000)))
    if kind == 1:
        return post(b'{"a":' * draw.randrange(1, 3000))
    if kind == 2:
        return post(b"[" * draw.randrange(1, 3000) + b"]" * draw.randrange(3000))
    if kind == 3:
        return post(b"x" * draw.randrange(20001, 100000))
    if kind == 4:
        return post(b"{}", draw.choice([b"text/plain", b"", b"multipart/form-data", b"\xff/\x01"]))
    if kind == 5:
        return b"G\x00T / HTTP/1.1\r\n\r\n" + draw.randbytes(100)
    if kind == 6:
        return b"GET / HTTP/1.1\r\nx: " + b"y" * 200_000
    if kind == 7:
        return b"POST /predict HTTP/1.1\r\nContent-Length: -%d\r\n\r\n" % draw.randrange(1, 99)
    if kind == 8:
        chunk = b"7d0\r\n" + b"x" * 2000 + b"\r\n"
        head = post(b"").partition(b"Content-Length")[0]
        return head + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * draw.randrange(11, 20)
    if kind == 9:
        return b"GET /%s HTTP/1.1\r\nHost: localhost\r\n\r\n" % draw.randbytes(8).hex().encode()
    query = {"relation": relation, "head": value(), "k": value()}
    if kind == 10 and draw.random() < 0.5:
        path = draw.choice([b"/score", b"/neighbors"])
        key = draw.choice(["triples", "entity", "zzz"])
        body = json.dumps(draw.choice([{key: [[value()]]}, {key: value()}, value()])).encode()
        return post(body).replace(b"/predict", path, 1)
    if kind == 10:
        query[draw.choice(["relation", "tail", "candidates", "keep_known", "zzz"])] = value()
        query["head"] = "nobody has this name"
    return post(json.dumps(draw.choice([query, [query], value()])).encode())


def test_a_thousand_malformed_requests(address: str, model: CompressedModel) -> None:
    draw = random.Random(5)
    statuses: dict[str, int] = {}
    for i in range(1000):
        request = nonsense(draw, model.relation_labels[0])
        answer = exchange(address, request)
        status = answer[9:12].decode()
        statuses[status] = statuses.get(status, 0) + 1
        if answer:  # nothing where the connection was closed on endless headers
            assert status.startswith("4"), (i, request[:300], answer[:300])
            length = answer.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
            assert int(length) > 10
    assert statuses.pop("", 0) < 100
    assert set(statuses) == {"400", "404", "413", "415", "422"}
    good = {"head": model.entity_labels[0], "relation": model.relation_labels[0]}
    assert ask(address, good)[0] == 200
