"""The generated world: exact size, determinism, rules that hold, a fair hold-out."""

import time
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest

from metasd.data.families import World, generate
from metasd.data.load import load_graph
from metasd.errors import InputError

DIGEST = "c00692a233a7126c80dff877717e37cb0f0c8442f0f0a52580db5277076da954"
Pairs = set[tuple[int, int]]


@pytest.fixture(scope="module")
def world() -> World:
    return generate()


@pytest.fixture(scope="module")
def pairs(world: World) -> dict[str, Pairs]:
    """All the pairs of each relation, over the three splits."""
    found: dict[str, Pairs] = {name: set() for name in world.relations}
    for head, relation, tail in np.concatenate(list(world.triples.values())).tolist():
        found[world.relations[relation]].add((head, tail))
    return found


def compose(first: Pairs, second: Pairs) -> Iterator[tuple[int, int]]:
    """(x, z) for every (x, y) of the one and (y, z) of the other."""
    after: dict[int, list[int]] = {}
    for y, z in second:
        after.setdefault(y, []).append(z)
    return ((x, z) for x, y in first for z in after.get(y, []))


def inverse(pairs: Pairs) -> Pairs:
    return {(b, a) for a, b in pairs}


@pytest.mark.parametrize("size", [20, 21, 37, 99, 500, 2000, 5003])
def test_exact_size(size: int) -> None:
    for seed in range(10 if size < 100 else 1):
        made = generate(size, seed)
        assert len(made.entities) == len(set(made.entities)) == size
        train = made.triples["train"]
        assert np.unique(train[:, [0, 2]]).tolist() == list(range(size))
        assert np.unique(train[:, 1]).tolist() == list(range(len(made.relations)))
        every = np.concatenate(list(made.triples.values()))
        assert len(np.unique(every, axis=0)) == len(every)
        assert all(len(part) for part in made.triples.values())


def test_too_few_entities() -> None:
    with pytest.raises(InputError, match="families need at least 20 entities; got 19"):
        generate(19)
    with pytest.raises(InputError, match="families need at least 20 entities; got 3"):
        load_graph("families:3")


def test_the_same_world_everywhere() -> None:
    graph = load_graph("families")
    assert graph.name == "families"
    assert graph.digest == load_graph("families:2000").digest == DIGEST
    assert graph.digest != load_graph("families", seed=1).digest
    assert graph.unseen == {"entities": 0, "relations": 0, "valid": 0, "test": 0}
    assert graph.notes == ()


def test_size_of_the_graph(world: World) -> None:
    sizes = {name: len(part) for name, part in world.triples.items()}
    total = sum(sizes.values())
    assert 12 <= total / len(world.entities) <= 16
    for name in ("valid", "test"):
        assert 0.04 <= sizes[name] / total <= 0.06


def test_every_relation_is_held_out_alike(world: World) -> None:
    whole = Counter(np.concatenate(list(world.triples.values()))[:, 1].tolist())
    for name in ("valid", "test"):
        held = Counter(world.triples[name][:, 1].tolist())
        assert set(held) == set(whole)
        for relation, count in held.items():
            assert abs(count - whole[relation] / 20) <= 1, world.relations[relation]


def test_long_tail(pairs: dict[str, Pairs]) -> None:
    sizes = sorted(len(members) for members in pairs.values())
    total = sum(sizes)
    assert len(sizes) == 30
    assert sum(size < total / 100 for size in sizes) >= 8
    assert sizes[-1] < total / 5


def test_kinship_rules(pairs: dict[str, Pairs]) -> None:
    parents = pairs["father_of"] | pairs["mother_of"]
    brothers_and_sisters = {(a, b) for a, b in compose(inverse(parents), parents) if a != b}
    siblings = brothers_and_sisters
    uncles_and_aunts = set(compose(siblings, parents))
    grandparents = set(compose(parents, parents))
    married = pairs["spouse_of"] | inverse(pairs["spouse_of"])
    assert not pairs["father_of"] & pairs["mother_of"]
    assert pairs["grandparent_of"] == grandparents
    rules = {
        "parent_of": parents,
        "child_of": inverse(parents),
        "sibling_of": siblings,
        "brother_of": siblings,
        "sister_of": siblings,
        "uncle_of": uncles_and_aunts,
        "aunt_of": uncles_and_aunts,
        "nephew_of": inverse(uncles_and_aunts),
        "niece_of": inverse(uncles_and_aunts),
        "cousin_of": set(compose(inverse(parents), uncles_and_aunts))
        | set(compose(inverse(uncles_and_aunts), parents)),
        "grandchild_of": inverse(grandparents),
        "great_grandparent_of": set(compose(parents, grandparents)),
        "parent_in_law_of": set(compose(parents, married)),
        "sibling_in_law_of": set(compose(siblings, married)) | set(compose(married, siblings)),
        "stepparent_of": set(compose(married, parents)) - parents,
        "twin_of": siblings,
        "godparent_of": uncles_and_aunts,
        "mentor_of": uncles_and_aunts,
        "heir_of": inverse(pairs["father_of"]),
        "named_after": inverse(grandparents),
    }
    for name, allowed in rules.items():
        assert pairs[name], name
        assert pairs[name] <= allowed, name


def test_towns_and_trades(world: World, pairs: dict[str, Pairs]) -> None:
    born, lives, works = (dict(pairs[name]) for name in ("born_in", "lives_in", "works_as"))
    located = dict(pairs["located_in"])
    people = set(born)
    assert people == set(lives) == set(works)
    assert set(born.values()) | set(lives.values()) <= set(located)
    kinds = [people, set(located), set(located.values()), set(works.values())]
    assert sum(map(len, kinds)) == len(set.union(*kinds)) == len(world.entities)
    assert all(born[child] == lives[father] for father, child in pairs["father_of"])
    assert all(lives[a] == lives[b] for a, b in pairs["spouse_of"])
    assert all(works[a] == works[b] for a, b in pairs["mentor_of"] | pairs["heir_of"])
    assert all((lives[a], works[a]) == (lives[b], works[b]) for a, b in pairs["rival_of"])
    assert all(located[a] == located[b] for a, b in pairs["neighbour_of"])
    for child, elder in pairs["named_after"]:
        assert world.entities[child].split()[0] == world.entities[elder].split()[0]


def test_men_are_not_women(pairs: dict[str, Pairs]) -> None:
    men = {
        a for name in ("father_of", "brother_of", "uncle_of", "nephew_of") for a, _ in pairs[name]
    }
    women = {
        a for name in ("mother_of", "sister_of", "aunt_of", "niece_of") for a, _ in pairs[name]
    }
    assert not men & women


def test_inverses_do_not_give_the_answers_away(world: World) -> None:
    """Under a third of the test triples stand in train the other way round under another name."""
    train = {(h, t) for h, _, t in world.triples["train"].tolist()}
    reversed_pairs = sum((t, h) in train for h, _, t in world.triples["test"].tolist())
    assert reversed_pairs < len(world.triples["test"]) / 3


def test_most_of_test_follows_from_train(world: World) -> None:
    """Two steps through train connect most held-out pairs, so that there is something to learn."""
    near: dict[int, set[int]] = {}
    for head, _, tail in world.triples["train"].tolist():
        near.setdefault(head, set()).add(tail)
        near.setdefault(tail, set()).add(head)
    test = world.triples["test"].tolist()
    linked = sum(tail in near[head] or bool(near[head] & near[tail]) for head, _, tail in test)
    assert linked > 0.9 * len(test)


@pytest.mark.slow
def test_a_large_world_is_quick() -> None:
    start = time.perf_counter()
    graph = load_graph("families:100000")
    assert time.perf_counter() - start < 10
    assert graph.num_entities == 100_000
    assert graph.num_relations == 30
    assert graph.name == "families:100000"
