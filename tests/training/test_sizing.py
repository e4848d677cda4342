"""The size of the compact model: what follows from it, and that it is kept."""

from pathlib import Path

import pytest

from metasd import compress
from metasd.config import Config, preset
from metasd.data.graph import Graph
from metasd.errors import InputError
from metasd.training.sizing import limit, sized, stored_bytes
from metasd.training.trainer import train
from metasd.training.tune import by_rules

QUICK = {"train.epochs": 2, "compact.warmup_epochs": 1, "tune.budget": 0, "train.batch_size": 500}


@pytest.mark.parametrize("name", ["complex", "cp", "distmult"])
@pytest.mark.parametrize("size", ["1/5", "1/10", "1/20", "0.03", "9kB"])
def test_the_stored_model_is_as_small_as_asked_for(
    small_graph: Graph, tmp_path: Path, name: str, size: str
) -> None:
    config = Config().override(
        {
            **QUICK,
            "model.name": name,
            "model.rank": 37 if name == "complex" else 75,
            "compact.size": size,
        }
    )
    run = train(small_graph, config, tmp_path / "run")
    stored = compress(run, known=False).nbytes
    assert stored <= limit(small_graph, run.config)
    assert stored == stored_bytes(small_graph, run.config)
    assert run.config.compact.size == size
    if name == "complex" and "/" in size:  # nothing is wasted
        assert stored > 0.85 * limit(small_graph, run.config)


def test_relations_of_matrices_change_their_bits_only(small_graph: Graph, tmp_path: Path) -> None:
    config = Config().override(
        {**QUICK, "model.name": "rescal", "model.rank": 8, "compact.size": "1/6"}
    )
    run = train(small_graph, config, tmp_path / "run")
    assert run.config.prune.fraction == 0
    assert compress(run, known=False).nbytes <= limit(small_graph, run.config)


def test_a_weight_format_that_is_given_stays(small_graph: Graph) -> None:
    given = {"compact.size": "1/20", "model.rank": 64}
    columns = {}
    for weight_format in ("int4", "int3", "int2"):
        config = sized(
            small_graph, Config().override({**given, "compact.weight_format": weight_format})
        )
        assert config.compact.weight_format == weight_format
        columns[weight_format] = 1 - config.prune.fraction
    assert columns["int4"] < columns["int3"] < columns["int2"]


def test_columns_follow_from_a_share_that_is_given(small_graph: Graph) -> None:
    given = {"compact.size": "1/12", "model.rank": 64, "prune.fraction": 0.5}
    prune = by_rules(small_graph, Config().override(given)).prune
    assert (prune.granularity, prune.fraction) == ("column", 0.5)


def test_what_was_chosen_fits_and_stays(small_graph: Graph) -> None:
    once = by_rules(small_graph, Config().override({"compact.size": "1/20", "model.rank": 64}))
    assert once.prune.fraction > 0
    assert by_rules(small_graph, once) == once


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"compact.size": "1/5000"}, r"1/5000 leaves .* B .* at rank 16; the smallest .* takes"),
        ({"compact.size": "2"}, r"must be a share .* or a size such as 300kB or 3MB; got '2'"),
        ({"compact.size": "1/0"}, "must be a share"),
        ({"compact.size": "0MB"}, "must be a share"),
        ({"compact.size": "1/20", "prune.fraction": 0.1}, "the smallest that these settings"),
        ({"compact.size": "1/20", "compact.weight_format": "fp32"}, "of few bits; got .* fp32"),
        ({"compact.size": "1/20", "compact.weights": "shared"}, "separate; got .* shared"),
        ({"compact.size": "1/20", "train.objective": "dense"}, "a compact model; got .* dense"),
        ({"compact.size": "1/20", "prune.schedule": "cubic"}, "constant; got .* cubic"),
        ({"compact.size": "1/20", "prune.granularity": "row"}, "column; got .* row"),
    ],
)
def test_a_size_that_cannot_be_is_refused(
    small_graph: Graph, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        by_rules(small_graph, Config().override({"model.rank": 16, **settings}))


def test_the_published_method_has_no_size(small_graph: Graph) -> None:
    with pytest.raises(InputError, match=r"compact\.size needs compact\.weights = separate"):
        by_rules(small_graph, preset("metasd").override({"compact.size": "1/20"}))


def test_a_run_that_had_no_size_may_get_one(small_graph: Graph) -> None:
    old = by_rules(small_graph, Config().override({"model.rank": 64})).override(
        {"tune.settings": []}
    )
    assert by_rules(small_graph, old.override({"compact.size": "1/20"})).prune.fraction > 0
    given = {"compact.size": "1/20", "compact.weight_format": "int2"}
    assert by_rules(small_graph, old.override(given)).compact.weight_format == "int2"
