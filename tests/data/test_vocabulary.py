"""Labels and ids, and the files that keep them."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graph_folders import VALID, write_folder
from metasd.data.graph import Graph
from metasd.data.load import load_graph
from metasd.data.vocabulary import Vocabulary, load_vocabulary
from metasd.errors import InputError


@pytest.fixture(autouse=True)
def _no_data_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("METASD_DATA", raising=False)


@pytest.fixture
def labelled(tmp_path: Path) -> Graph:
    folder = write_folder(tmp_path / "labelled", valid=[*VALID, ("dan", "likes", "bo")])
    (folder / "entity_labels.tsv").write_text("ada\tAda Berg\nbo\tSmith\ncy\tSmith\nzed\tZed\n")
    return load_graph(folder)


def test_entities_by_label(labelled: Graph) -> None:
    assert labelled.entity_labels == {"ada": "Ada Berg", "bo": "Smith", "cy": "Smith"}
    assert labelled.entity_id("ada") == labelled.entity_id("Ada Berg") == 0
    assert [labelled.entity_name(i) for i in range(4)] == ["Ada Berg", "Smith", "Smith", "dan"]
    with pytest.raises(InputError) as error:
        labelled.entity_id("Smith")
    assert str(error.value) == '"Smith" names 2 entities (bo, cy); give the id of one'
    with pytest.raises(InputError) as error:
        labelled.entity_id("ada berg")
    assert str(error.value) == 'no entity "ada berg"; did you mean "Ada Berg"?'
    assert labelled.relation_id("likes") == 1
    with pytest.raises(InputError) as error:
        labelled.relation_id("know")
    assert str(error.value) == 'no relation "know"; did you mean "knows"?'
    with pytest.raises(InputError, match='split must be train, valid or test; got "dev"'):
        labelled.split("dev")


def test_bad_entity_labels(tmp_path: Path) -> None:
    folder = write_folder(tmp_path)
    (folder / "entity_labels.tsv").write_text("ada\tAda\nbo\n")
    with pytest.raises(InputError, match=r"entity_labels\.tsv: line 2: 1 field, wanted 2"):
        load_graph(folder)


def test_vocabulary_round_trip(labelled: Graph, tmp_path: Path) -> None:
    labelled.save_vocabulary(tmp_path / "new" / "model")
    assert sorted(path.name for path in (tmp_path / "new" / "model").iterdir()) == [
        "entities.tsv",
        "relations.tsv",
    ]
    assert (tmp_path / "new" / "model" / "entities.tsv").read_text() == (
        "0\tada\tAda Berg\n1\tbo\tSmith\n2\tcy\tSmith\n3\tdan\t\n"
    )
    assert (tmp_path / "new" / "model" / "relations.tsv").read_text() == "0\tknows\n1\tlikes\n"
    read = load_vocabulary(tmp_path / "new" / "model")
    assert read.entities == labelled.entities
    assert read.relations == labelled.relations
    assert read.entity_labels == labelled.entity_labels
    assert read.entity_id("Ada Berg") == 0


LABELS = st.lists(
    st.text(st.characters(exclude_characters="\t\n\r\0", exclude_categories=["Cs"]), min_size=1),
    min_size=1,
    unique=True,
)


@settings(max_examples=50, deadline=None)
@given(entities=LABELS, relations=LABELS)
def test_vocabulary_keeps_any_label(
    tmp_path_factory: pytest.TempPathFactory, entities: list[str], relations: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("vocabulary")
    Vocabulary(entities=entities, relations=relations).save_vocabulary(folder)
    read = load_vocabulary(folder)
    assert (read.entities, read.relations, read.entity_labels) == (entities, relations, {})


def test_bad_vocabulary(tmp_path: Path) -> None:
    for bad in ("a\tb", "a\nb", "a\rb", "a\0b"):
        with pytest.raises(InputError, match="holds a tab, a line break or NUL"):
            Vocabulary(entities=["a"], relations=[bad]).save_vocabulary(tmp_path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match=r"entities\.tsv: No such file"):
        load_vocabulary(tmp_path)
    (tmp_path / "relations.tsv").write_text("0\tr\n")
    for text, line in (("0\ta\n2\tb\n", 2), ("a\n", 1), ("", 1), ("0\t\n", 1)):
        (tmp_path / "entities.tsv").write_text(text)
        with pytest.raises(
            InputError, match=rf"entities\.tsv: line {line}: wanted {line - 1}<TAB>label"
        ):
            load_vocabulary(tmp_path)
