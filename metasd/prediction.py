"""Which entity completes a triple? Labels in, ranked labels out."""

import torch

from metasd import kernels

from .errors import InputError
from .known import KnownAnswers
from .model import Model
from .vocabulary import Vocabulary


def predict(
    model: Model,
    vocabulary: Vocabulary,
    head: str | None = None,
    relation: str | None = None,
    tail: str | None = None,
    k: int = 10,
    *,
    pruned: bool | None = None,
    known: KnownAnswers | None = None,
) -> list[tuple[str, float]]:
    """The k entities that complete (head, relation, ?) or (?, relation, tail) best.

    Args:
        head, tail: exactly one of them: an entity's id in the data, or its unambiguous label.
        relation: a relation's label.
        k: at most how many answers; fewer if not so many entities are left.
        pruned: which model answers; by default the pruned one if there is one.
        known: answers to leave out (`graph.known()`), or None to leave out none.

    Returns:
        [(label, score), ...], the best first; scores are comparable within one answer only.

    Raises:
        InputError: an unknown label (the nearest are named), or not exactly one of head and tail.
    """
    for name, label in (("head", head), ("relation", relation), ("tail", tail)):
        if not isinstance(label, str | None):
            raise InputError(f"{name} must be a label; got {label!r}")
    if relation is None or (head is None) == (tail is None):
        raise InputError("a question has a relation and either a head or a tail")
    if k < 1:
        raise InputError(f"k must be at least 1; got {k}")
    given = vocabulary.entity_id(head if head is not None else str(tail))
    relation_id = vocabulary.relation_id(relation)
    if tail is not None:
        relation_id += vocabulary.num_relations  # the inverse relation asks for heads
    if pruned is None:
        pruned = model.masks is not None
    ids = torch.tensor([[given], [relation_id]], device=model.device)
    query = model.queries(ids[0], ids[1], pruned)
    left_out = None
    if known is not None:
        indptr, indices = known.rows([given], [relation_id])
        left_out = (
            torch.from_numpy(indptr).to(model.device),
            torch.from_numpy(indices).to(model.device),
        )
    scores, best = kernels.topk_entities(
        query,
        model.candidates(model.tables(pruned)[0]),
        min(k, model.num_entities),
        left_out,
        group=model.shards.group,
        first=model.shards.block(model.num_entities).start,
    )
    return [
        (vocabulary.entity_name(entity), score)
        for entity, score in zip(best[0].tolist(), scores[0].tolist(), strict=True)
        if entity >= 0
    ]
