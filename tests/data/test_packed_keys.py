"""Known answers with packed keys: those of int64 keys, in fewer bytes; damage is refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metasd.data.filter_index import KnownAnswers, key_bytes
from metasd.data.graph import Graph
from metasd.errors import InputError


def all_triples(graph: Graph) -> np.ndarray:
    return np.concatenate([graph.split(name) for name in ("test", "valid", "train")])


def test_packed_keys_answer_like_those_of_a_graph(small_graph: Graph) -> None:
    sizes = small_graph.num_entities, small_graph.num_relations
    packed, wanted = KnownAnswers.of_triples(all_triples(small_graph), *sizes), small_graph.known()
    draw = np.random.default_rng(0)
    for count in (0, 1, 2, 500):
        entities = draw.integers(0, sizes[0], count)
        for relations in (
            draw.integers(0, 2 * sizes[1], count),
            draw.integers(0, sizes[1], count),
            draw.integers(sizes[1], 2 * sizes[1], count),
        ):
            found, other = packed.rows(entities, relations), wanted.rows(entities, relations)
            assert [part.tolist() for part in found] == [part.tolist() for part in other]
            assert all(part.dtype == np.int64 for part in found)
    assert packed.nbytes == 3 * len(packed)
    assert packed.answers(3, 0).tolist() == wanted.answers(3, 0).tolist()


@given(
    triples=st.lists(st.tuples(st.integers(0, 299), st.integers(0, 2), st.integers(0, 299))),
    entity=st.integers(0, 299),
    relation=st.integers(0, 5),
)
@settings(max_examples=100, deadline=None)
def test_answers_are_those_of_brute_force(
    triples: list[tuple[int, int, int]], entity: int, relation: int
) -> None:
    known = KnownAnswers.of_triples(np.array(triples, np.int64).reshape(-1, 3), 300, 3)
    if relation < 3:
        wanted = {t for h, r, t in triples if (h, r) == (entity, relation)}
    else:
        wanted = {h for h, r, t in triples if (t, r) == (entity, relation - 3)}
    assert known.answers(entity, relation).tolist() == sorted(wanted)
    again = KnownAnswers.of_arrays(known.key_array, known.indices, 300, 3)
    assert again.answers(entity, relation).tolist() == sorted(wanted)


def test_keys_are_as_narrow_as_they_can_be() -> None:
    assert [key_bytes(n, r) for n, r in ((1, 1), (16, 16), (257, 1), (14_541, 237))] == [1, 1, 2, 3]
    assert key_bytes(86_000_000, 14_824) == 6
    wide = KnownAnswers.of_triples(np.array([[2**31, 2**20, 5]]), 2**32, 2**21)
    assert wide.answers(2**31, 2**20).tolist() == [5]
    assert wide.answers(5, 2**20 + 2**21).tolist() == [2**31]


def test_order_is_checked_across_parts() -> None:
    triples = np.stack([np.arange(20_000), np.zeros(20_000, int), np.zeros(20_000, int)], axis=1)
    known = KnownAnswers.of_triples(triples, 20_000, 1)
    for place in (1, 8191, 8192, 8193, 19_999):
        keys = known.key_array.copy()
        keys[place] = keys[place - 1]
        with pytest.raises(InputError, match=f"known triple {place} is out of order"):
            KnownAnswers.of_arrays(keys, known.indices, 20_000, 1)


def test_damaged_arrays_are_refused() -> None:
    known = KnownAnswers.of_triples(np.array([[0, 1, 2], [1, 0, 0], [3, 1, 1]]), 4, 2)
    keys, tails = known.key_array, known.indices
    for bad_keys, bad_tails, message in (
        (keys[:2], tails, "keys of 1 bytes and as many tails"),
        (keys.astype(np.int8), tails, "keys of 1 bytes"),
        (keys, tails.astype(np.int64), "keys of 1 bytes"),
        (keys + np.uint8(1), tails, "a known query is 8"),
        (keys, tails + np.uint8(2), "a known tail is 4; there are 4"),
        (keys[::-1], tails, "known triple 1 is out of order"),
        (np.repeat(keys[:1], 3, 0), np.repeat(tails[:1], 3), "known triple 1 is out of order"),
    ):
        with pytest.raises(InputError, match=message):
            KnownAnswers.of_arrays(bad_keys, bad_tails, 4, 2)
