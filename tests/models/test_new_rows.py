"""Rows fitted to their triples: gradients, what stays, and what is learned."""

import numpy as np
import pytest
import torch

from metasd.models import CP, RESCAL, ComplEx, DistMult, Scoring, new_rows
from metasd.models.new_rows import _Fit, fit_rows

RANK, ENTITIES, RELATIONS = 4, 9, 3
NEW_ENTITY = np.isin(np.arange(ENTITIES), [2, 5, 8])
NEW_RELATION = np.array([False, True, False])


def tables(kind: type[Scoring]) -> tuple[Scoring, np.ndarray, np.ndarray]:
    scoring, random = kind(RANK), np.random.default_rng(1)
    shapes = (
        (scoring.entity_roles * ENTITIES, scoring.entity_width),
        (2 * RELATIONS, scoring.relation_width),
    )
    entities, relations = (random.standard_normal(shape).astype(np.float32) for shape in shapes)
    return scoring, entities, relations


def triples() -> np.ndarray:
    random = np.random.default_rng(2)
    found = random.integers(0, (ENTITIES, RELATIONS, ENTITIES), (40, 3))
    return found[(found[:, 0] != 8) & (found[:, 2] != 8)]  # entity 8 has none


@pytest.mark.parametrize("kind", [ComplEx, DistMult, CP, RESCAL])
def test_gradients_are_those_of_the_loss_over_all_entities(kind: type[Scoring]) -> None:
    scoring, entities, relations = tables(kind)
    rows = triples()
    directed = np.concatenate([rows, rows[:, ::-1] + np.array([0, RELATIONS, 0])])
    fit = _Fit(scoring, entities, relations, NEW_ENTITY, np.tile(NEW_RELATION, 2), seed=0)
    fit.take(directed)
    random = np.random.default_rng(3)
    for part in fit.rows:
        part[:] = random.standard_normal(part.shape)
    fit.write()
    found = fit.gradients()

    e, r = (torch.from_numpy(x.astype(np.float64)).requires_grad_() for x in (entities, relations))
    head, relation, tail = torch.from_numpy(directed.copy()).T
    offset = len(e) - ENTITIES
    scores = scoring.query(e[head], r[relation]) @ e[offset:].T
    scores[:, 8] = -np.inf  # nothing is known of it
    loss = torch.nn.functional.cross_entropy(scores, tail, reduction="sum")
    touched = torch.from_numpy(NEW_ENTITY)[head] | torch.from_numpy(NEW_ENTITY)[tail]
    touched |= torch.from_numpy(np.tile(NEW_RELATION, 2))[relation]
    for ids, table in ((head, e[:ENTITIES]), (tail, e[offset:]), (relation, r)):
        loss = loss + new_rows._RIDGE / 2 * (table[ids[touched]] ** 2).sum()
    if kind.entity_roles == 2:  # each role is weighed by the triples of both
        for ids, table in ((tail, e[:ENTITIES]), (head, e[offset:])):
            loss = loss + new_rows._RIDGE / 2 * (table[ids[touched]] ** 2).sum()
    loss.backward()
    wanted = e.grad.reshape(scoring.entity_roles, ENTITIES, -1)[:, [2, 5]]
    np.testing.assert_allclose(found[0], wanted, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(found[1], r.grad[[1, 4]], rtol=1e-3, atol=1e-3)


def test_a_sample_of_many_entities_stands_for_all_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scoring, entities, relations = tables(ComplEx)
    fit = _Fit(scoring, entities, relations, NEW_ENTITY, np.tile(NEW_RELATION, 2), seed=0)
    fit.take(triples())
    queries = np.random.default_rng(4).standard_normal((50, 8)).astype(np.float32) / 2
    exact = np.exp(queries @ fit.tails[~np.isin(np.arange(ENTITIES), 8)].T).sum(1)
    monkeypatch.setattr(new_rows, "_CANDIDATES", 3)
    total = np.zeros(50)
    for _ in range(400):
        candidates, offset = fit._candidates(np.array([0, 2]))
        assert {0, 2, 5} <= set(candidates.tolist())
        assert 8 not in candidates
        total += np.exp(queries @ fit.tails[candidates].T + offset).sum(1) / 400
    np.testing.assert_allclose(total, exact, rtol=0.1)


def test_known_rows_and_rows_without_triples_stay() -> None:
    scoring, entities, relations = tables(CP)
    before = entities.copy(), relations.copy()
    fit_rows(scoring, entities, relations, NEW_ENTITY, NEW_RELATION, triples())
    changed = (entities != before[0]).any(1).reshape(2, -1)
    assert (changed == np.isin(np.arange(ENTITIES), [2, 5])).all()
    assert ((relations != before[1]).any(1) == np.tile(NEW_RELATION, 2)).all()
