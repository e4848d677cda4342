"""A generated world of families: a graph to learn from where no data set is at hand.

People are born, marry, move, work and have children over several generations. Nearly every relation
follows by rules from the others, so that held-out triples can be learned: an uncle is a parent's
brother, couples share a town, children are born where the parents live. Redundant relations
(``child_of`` beside ``father_of``) are written for a random part only, and most symmetric relations
in one direction, so that looking up an inverse does not suffice.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from metasd.errors import InputError

IntArray: TypeAlias = npt.NDArray[np.int64]

DEFAULT_ENTITIES = 2000
MIN_ENTITIES = 20


def _words(text: str) -> list[str]:
    return text.split()


_MEN = _words(
    """Aaro Abel Adam Alan Albin Amir Anton Aron Arvid Asher Basil Bram Bruno Casper Cyril Daan
Dario Edgar Elias Emil Enzo Erik Ezra Felix Finn Gaspar Gustav Hamid Hugo Igor Ivan Jakob Jonas
Kenji Lars Leon Luca Magnus Marek Mateo Milan Nils Noah Omar Oscar Otto Pablo Pavel Quentin Rafael
Ravi Samir Silas Stefan Tariq Theo Tomas Viktor Walter Yusuf"""
)
_WOMEN = _words(
    """Ada Agnes Aiko Alma Amina Anja Asta Beata Bianca Carla Celia Clara Dalia Daria Edith
Elin Elsa Emma Erika Fatima Flora Freya Gerda Greta Hana Helga Ida Ines Ingrid Irene Jana Judith
Karin Laila Lea Lena Linnea Lucia Maja Mara Marta Mila Mina Nadia Nina Nora Olga Petra Priya Rosa
Ruth Sara Selma Signe Sofia Tilda Vera Wanda Yara Zoe"""
)
_SURNAMES = _words(
    """Abbot Adler Almgren Arnold Baker Baran Bauer Beck Berg Bianchi Blom Bondar Brandt
Carver Castro Cohen Costa Dahl Darzi Drake Dumont Eklund Engel Falk Farkas Ferrari Fischer Flores
Fontaine Forsberg Frost Garcia Gomez Greco Haas Hale Hansen Haddad Holm Horvat Ibsen Ito Jansen
Kaya Keller Khan Klein Kovac Kruger Lang Larsen Lind Lopez Lund Marsh Mendes Meyer Moreau Mori
Nagy Neumann Novak Nyberg Okafor Olsen Ortiz Palmer Patel Peeters Petrov Poole Quist Ramos Reyes
Ricci Rossi Roth Saari Sato Schmidt Serra Silva Sorel Stern Strand Tanaka Thorn Toth Vance Varga
Vidal Vogel Wagner Weber Winter Wolf Yamada Young Zeman"""
)
_TOWN_STARTS = _words(
    """Ash Birch Black Bright Clear Cold Crow Deer Eagle Elm Fair Fern Fox Frost Glen
Gold Green Grey Hart Hazel High Holly King Lake Long Maple Mill Moor North Oak Old Otter Pine Raven
Red Rose Silver Stone Summer Swan Thorn West White Wild Willow Winter Wolf"""
)
_TOWN_ENDS = _words(
    """bridge brook bury dale field ford gate ham haven hill hurst land ley mere mouth port
stead ton vale well wick wood worth"""
)
_REGION_ENDS = ["shire", "mark", "lands", "moors"]
_PROFESSIONS = _words(
    """baker teacher carpenter doctor farmer weaver lawyer sailor miller printer nurse
engineer painter potter tailor clerk brewer musician librarian gardener smith cook pilot chemist
mason judge actor astronomer barber beekeeper bookbinder butcher cartographer cobbler cooper dancer
dentist driver editor firefighter fisher florist glazier goldsmith historian hunter jeweller
journalist locksmith mechanic midwife miner optician pharmacist plumber poet roofer shepherd
surveyor tanner translator vet watchmaker winemaker"""
)

# The share, in percent, of the true triples of a relation that the graph tells. The unlisted are
# written in full.
_TOLD = {
    "parent_of": 25,
    "child_of": 20,
    "sibling_of": 30,
    "brother_of": 75,
    "sister_of": 75,
    "uncle_of": 70,
    "aunt_of": 70,
    "nephew_of": 20,
    "niece_of": 20,
    "cousin_of": 25,
    "grandchild_of": 12,
    "great_grandparent_of": 12,
    "parent_in_law_of": 30,
    "sibling_in_law_of": 12,
    "godparent_of": 25,
    "mentor_of": 8,
    "rival_of": 12,
    "heir_of": 25,
    "named_after": 60,
}
_SYMMETRIC = {
    "spouse_of",
    "sibling_of",
    "cousin_of",
    "sibling_in_law_of",
    "neighbour_of",
    "twin_of",
    "rival_of",
}
_SYMMETRIC_BOTH = 30  # percent of symmetric pairs that are written in both directions


class World(NamedTuple):
    """Labels by id, and int64 ``(n, 3)`` id triples for train, valid and test."""

    entities: list[str]
    relations: list[str]
    triples: dict[str, IntArray]


class _People(NamedTuple):
    """One int64 array of length P per property; -1 where there is none.

    The children of a couple have consecutive ids, from the eldest to the youngest.
    """

    sex: IntArray  # 0 man, 1 woman
    father: IntArray
    mother: IntArray
    spouse: IntArray
    second_spouse: IntArray  # the widowed parent whom this person married
    first_child: IntArray
    children: IntArray  # how many


def generate(num_entities: int = DEFAULT_ENTITIES, seed: int = 0) -> World:
    """Generate a world of exactly that many people, towns, regions and professions.

    About 14 triples an entity, of which about 5 % each are held out for valid and test, the same
    share of every relation; each entity and relation occurs in train. The same arguments give the
    same world everywhere.

    Args:
        num_entities: at least 20.
        seed: of the random generator (PCG64).

    Raises:
        InputError: ``num_entities`` is too small.
    """
    if num_entities < MIN_ENTITIES:
        raise InputError(f"families need at least {MIN_ENTITIES} entities; got {num_entities}")
    rng = np.random.Generator(np.random.PCG64(seed))
    towns = max(2, num_entities // 50)
    regions = max(1, towns // 8)
    professions = min(len(_PROFESSIONS), max(2, num_entities // 50))
    people = _populate(num_entities - towns - regions - professions, rng)
    count = len(people.sex)
    birthplace, home = _settle(people, towns, rng)
    trade = _employ(people, professions, rng)
    names, named_after = _name(people, rng)

    true = _kinship(people) | _bonds(people, home, trade, rng)
    everyone = np.arange(count)
    town, region, profession = np.cumsum([count, towns, regions]).tolist()  # where each kind begins
    places = np.arange(towns)
    true |= {
        "named_after": named_after,
        "born_in": _pairs(everyone, town + birthplace),
        "lives_in": _pairs(everyone, town + home),
        "works_as": _pairs(everyone, profession + trade),
        "located_in": _pairs(town + places, region + places % regions),
        "neighbour_of": _pairs(town + places, town + (places + regions) % towns),
    }
    written = {name: _written(name, true[name], rng) for name in sorted(true)}
    relations = [name for name, pairs in written.items() if len(pairs)]
    triples = np.concatenate(
        [np.insert(written[name], 1, number, axis=1) for number, name in enumerate(relations)]
    )
    entities = names + _place_names(towns, regions) + _PROFESSIONS[:professions]
    return World(entities, relations, _hold_out(triples, rng))


def _populate(count: int, rng: np.random.Generator) -> _People:
    """Couples found families; each generation marries among itself or with incomers."""
    founders = max(4, count // 9 // 2 * 2)
    sex, first_child, children = np.zeros((3, count), dtype=np.int64)
    father, mother, spouse, second_spouse = np.full((4, count), -1, dtype=np.int64)
    sex[1:founders:2] = 1
    husbands, wives = np.arange(0, founders, 2), np.arange(1, founders, 2)
    single = np.empty(0, dtype=np.int64)
    total = founders
    while True:
        spouse[husbands], spouse[wives] = wives, husbands
        if total == count:
            break
        births = rng.integers(1, 5, len(husbands))
        before = np.cumsum(births) - births
        births = np.clip(count - total - before, 0, births)
        first_child[husbands] = first_child[wives] = total + before
        children[husbands] = children[wives] = births
        newborn = np.arange(total, total + births.sum())
        father[newborn], mother[newborn] = np.repeat(husbands, births), np.repeat(wives, births)
        sex[newborn] = rng.integers(0, 2, len(newborn))
        total += len(newborn)

        # Some who stayed single marry a widowed parent of their own generation.
        suitors = single[: min(len(single), len(husbands)) // 3]
        widowed = rng.permutation(len(husbands))[: len(suitors)]
        parent = np.where(sex[suitors] == 0, wives[widowed], husbands[widowed])
        unrelated = father[suitors] != father[parent]
        second_spouse[suitors[unrelated]] = parent[unrelated]

        crowd = rng.permutation(newborn)
        men, women = crowd[sex[crowd] == 0], crowd[sex[crowd] == 1]
        matches = min(len(men), len(women)) * 8 // 10
        strangers = father[men[:matches]] != father[women[:matches]]
        husbands, wives = men[:matches][strangers], women[:matches][strangers]
        single = crowd[~np.isin(crowd, np.concatenate([husbands, wives]))]
        incomers = min(count - total, len(single), max(len(crowd) // 8, 1))
        partners = np.arange(total, total + incomers)
        locals_ = single[:incomers]
        sex[partners] = 1 - sex[locals_]
        total += incomers
        husbands = np.concatenate([husbands, np.where(sex[locals_] == 0, locals_, partners)])
        wives = np.concatenate([wives, np.where(sex[locals_] == 0, partners, locals_)])

        single = single[incomers:]
    return _People(sex, father, mother, spouse, second_spouse, first_child, children)


def _settle(people: _People, towns: int, rng: np.random.Generator) -> tuple[IntArray, IntArray]:
    """Where each is born (where the father lives) and lives: couples where the husband does."""
    count = len(people.sex)
    born, elsewhere = rng.integers(0, towns, (2, count)).tolist()
    moves = (rng.integers(0, 100, count) < 25) & (people.spouse >= 0)
    lives: list[int] = []
    for person, (father, move) in enumerate(zip(people.father.tolist(), moves, strict=True)):
        if father >= 0:
            born[person] = lives[father]
        lives.append(elsewhere[person] if move else born[person])
    home = np.array(lives)
    wife = np.flatnonzero((people.spouse >= 0) & (people.sex == 1))
    home[wife] = home[people.spouse[wife]]
    second = np.flatnonzero(people.second_spouse >= 0)
    home[second] = home[people.second_spouse[second]]
    return np.array(born), home


def _employ(people: _People, professions: int, rng: np.random.Generator) -> IntArray:
    """The profession of each: mostly that of the parent of the same sex."""
    count = len(people.sex)
    trade = rng.integers(0, professions, count).tolist()
    inherits = rng.integers(0, 100, count) < 70
    model = np.where(people.sex == 0, people.father, people.mother)
    for person, (parent, inherit) in enumerate(zip(model.tolist(), inherits, strict=True)):
        if parent < 0:
            trade[person] = person % professions  # the founders cover every profession
        elif inherit:
            trade[person] = trade[parent]
    return np.array(trade)


def _name(people: _People, rng: np.random.Generator) -> tuple[list[str], IntArray]:
    """Unique full names, and whom the eldest of a couple were named after: (child, grandparent)."""
    count = len(people.sex)
    men, women = rng.integers(0, len(_MEN), count), rng.integers(0, len(_WOMEN), count)
    given = np.where(people.sex == 0, men, women).tolist()
    surname = rng.integers(0, len(_SURNAMES), count).tolist()
    grandparent = np.where(
        people.sex == 0, people.father[people.father], people.mother[people.mother]
    )
    eldest = people.first_child[people.father] == np.arange(count)
    grandparent = np.where(eldest & (people.father >= 0), grandparent, -1)
    names = []
    relatives = zip(people.sex.tolist(), people.father.tolist(), grandparent.tolist(), strict=True)
    for person, (sex, father, elder) in enumerate(relatives):
        if father >= 0:
            surname[person] = surname[father]
        if elder >= 0:
            given[person] = given[elder]
        names.append(f"{(_MEN, _WOMEN)[sex][given[person]]} {_SURNAMES[surname[person]]}")
    child = np.flatnonzero(grandparent >= 0)
    return _unique_labels(names), _pairs(child, grandparent[child])


def _place_names(towns: int, regions: int) -> list[str]:
    """Towns, then regions: every pair of a start and an end before any gets a number."""

    def combine(count: int, ends: list[str]) -> list[str]:
        names = []
        for i in range(count):
            turn, start = divmod(i, len(_TOWN_STARTS))
            names.append(_TOWN_STARTS[start] + ends[(turn + 5 * start) % len(ends)])
        return _unique_labels(names)

    return combine(towns, _TOWN_ENDS) + combine(regions, _REGION_ENDS)


def _unique_labels(names: list[str]) -> list[str]:
    """The second Ada Berg becomes Ada Berg 2."""
    seen: dict[str, int] = {}
    labels = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        labels.append(name if seen[name] == 1 else f"{name} {seen[name]}")
    return labels


def _kinship(people: _People) -> dict[str, IntArray]:
    """What follows from who begot and who married whom, written or not."""
    child = np.flatnonzero(people.father >= 0)
    fathers, mothers = _pairs(people.father[child], child), _pairs(people.mother[child], child)
    parents = np.concatenate([fathers, mothers])
    siblings = _siblings(people)
    uncles = _to_children(people, siblings)
    cousins = _to_children(people, uncles[:, ::-1])
    grandparents = _to_children(people, parents)
    married = np.flatnonzero(people.spouse >= 0)
    second = np.flatnonzero(people.second_spouse >= 0)
    remarried = _pairs(second, people.second_spouse[second])
    return {
        "father_of": fathers,
        "mother_of": mothers,
        "parent_of": parents,
        "child_of": parents[:, ::-1],
        "sibling_of": siblings,
        "brother_of": siblings[people.sex[siblings[:, 0]] == 0],
        "sister_of": siblings[people.sex[siblings[:, 0]] == 1],
        "uncle_of": uncles[people.sex[uncles[:, 0]] == 0],
        "aunt_of": uncles[people.sex[uncles[:, 0]] == 1],
        "nephew_of": uncles[people.sex[uncles[:, 1]] == 0][:, ::-1],
        "niece_of": uncles[people.sex[uncles[:, 1]] == 1][:, ::-1],
        "cousin_of": cousins,
        "grandparent_of": grandparents,
        "grandchild_of": grandparents[:, ::-1],
        "great_grandparent_of": _to_children(people, grandparents),
        "spouse_of": np.concatenate([_pairs(married, people.spouse[married]), remarried]),
        "parent_in_law_of": _to_spouse(people, parents),
        "sibling_in_law_of": _to_spouse(people, siblings),
        "stepparent_of": _to_children(people, remarried),
    }


def _bonds(
    people: _People, home: IntArray, trade: IntArray, rng: np.random.Generator
) -> dict[str, IntArray]:
    """Bonds that few have: each rests on kinship, a shared town or a shared profession."""
    everyone = np.arange(len(people.sex))
    uncles = _to_children(people, _siblings(people))
    eldest = everyone[(people.father >= 0) & (people.first_child[people.father] == everyone)]
    heirs = eldest[trade[eldest] == trade[people.father[eldest]]]
    twins = everyone[1:][
        (people.father[1:] >= 0)
        & (people.father[1:] == people.father[:-1])
        & (rng.integers(0, 100, len(everyone) - 1) < 4)
    ]
    crowd = rng.permutation(everyone)
    crowd = crowd[np.lexsort([trade[crowd], home[crowd]])]
    rivals = _pairs(crowd[:-1], crowd[1:])
    a, b = rivals.T
    rivals = rivals[
        (home[a] == home[b]) & (trade[a] == trade[b]) & (people.father[a] != people.father[b])
    ]
    # The eldest is held over the font by the eldest of the father's siblings.
    line = eldest[people.father[people.father[eldest]] >= 0]
    godparent = people.first_child[people.father[people.father[line]]]
    own_parent = godparent == people.father[line]
    return {
        "godparent_of": _pairs(godparent, line)[~own_parent],
        "mentor_of": uncles[trade[uncles[:, 0]] == trade[uncles[:, 1]]],
        "heir_of": _pairs(heirs, people.father[heirs]),
        "twin_of": _pairs(twins - 1, twins),
        "rival_of": rivals,
    }


def _pairs(first: IntArray, second: IntArray) -> IntArray:
    return np.stack([first, second], axis=1)


def _siblings(people: _People) -> IntArray:
    child = np.flatnonzero(people.father >= 0)
    pairs = _to_children(people, _pairs(child, people.father[child]))
    others: IntArray = pairs[pairs[:, 0] != pairs[:, 1]]
    return others


def _to_children(people: _People, pairs: IntArray) -> IntArray:
    """(x, y) -> (x, c) for every child c of y."""
    first, parent = pairs.T
    count = people.children[parent]
    shift = people.first_child[parent] - (np.cumsum(count) - count)
    return _pairs(np.repeat(first, count), np.repeat(shift, count) + np.arange(count.sum()))


def _to_spouse(people: _People, pairs: IntArray) -> IntArray:
    """(x, y) -> (x, the spouse of y), where there is one."""
    pairs = pairs[people.spouse[pairs[:, 1]] >= 0]
    return _pairs(pairs[:, 0], people.spouse[pairs[:, 1]])


def _written(name: str, pairs: IntArray, rng: np.random.Generator) -> IntArray:
    """The part of a relation's true pairs that the graph holds."""
    symmetric = name in _SYMMETRIC
    first, second = (np.sort(pairs, axis=1) if symmetric else pairs).T
    width = pairs.max(initial=0) + 1
    key = np.sort(first * width + second)
    pairs = _pairs(*np.divmod(key[np.diff(key, prepend=-1) > 0], width))
    pairs = pairs[rng.integers(0, 100, len(pairs)) < _TOLD.get(name, 100)]
    if not symmetric:
        return pairs
    flip = rng.integers(0, 2, len(pairs)) == 1
    pairs[flip] = pairs[flip, ::-1]
    both = rng.integers(0, 100, len(pairs)) < _SYMMETRIC_BOTH
    return np.concatenate([pairs, pairs[both, ::-1]])


def _hold_out(triples: IntArray, rng: np.random.Generator) -> dict[str, IntArray]:
    """Draw 5 % of every relation for valid and for test; each entity keeps a triple in train."""
    triples = triples[rng.permutation(len(triples))]
    relation = triples[:, 1]
    kept = np.zeros(len(triples), dtype=bool)
    kept[np.unique(triples[:, [0, 2]], return_index=True)[1] // 2] = True
    kept[np.unique(relation, return_index=True)[1]] = True
    free = np.flatnonzero(~kept)
    free = free[np.argsort(relation[free], kind="stable")]
    available = np.bincount(relation[free], minlength=relation.max() + 1)
    share = np.minimum((np.bincount(relation) + 19) // 20, available // 3)[relation[free]]
    rank = np.arange(len(free)) - (np.cumsum(available) - available)[relation[free]]
    part = np.zeros(len(triples), dtype=np.int64)
    part[free[rank < 2 * share]] = 2
    part[free[rank < share]] = 1
    return {name: triples[part == i] for i, name in enumerate(("train", "valid", "test"))}
