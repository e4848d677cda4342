"""A study's file: grids, sources, forms, and what is wrong with one."""

from pathlib import Path

import pytest

from metasd.config import Config, preset
from metasd.errors import InputError
from metasd.experiments.study import Form, Study
from study_files import written


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"preset": "metsd"}, "unknown preset 'metsd'.*did you mean \"metasd\""),
        ({"sedes": [1]}, 'unknown key sedes; did you mean "seeds"'),
        ({"seeds": ["a"]}, "seeds must be a list of different whole numbers"),
        ({"runs": {"x": {"model.rnak": 3}}}, "run x: unknown setting model.rnak"),
        ({"runs": [1]}, "runs must be names with settings"),
        ({"runs": {}}, "needs graph and runs"),
        ({"store": ["teacher fp32"]}, "must begin with one of source, compact, one-shot"),
        ({"store": ["source fp12"]}, "must say how the model is stored"),
        (
            {"store": ["source sparse int2"]},
            "codec sparse stores weights as .*; got weight format int2",
        ),
        ({"store": "source fp16"}, "store must be a list of forms"),
        ({"store": ["one-shot fp16"]}, "run prune prune.fraction=0.5: no form of store"),
        ({"seeds": [0, 0]}, "seeds must be a list of different whole numbers"),
        ({"runs": {"x": {"train.epochs": []}}}, "run x: train.epochs has no values"),
        ({"runs": {"x": {"train.seed": 1}}}, "seeds in place of train.seed"),
        ({"runs": {"x/1": {}, "x_1": {}}}, "two runs have the folder x_1__seed_0"),
        ({"runs": {"x": {"source": ["y"]}}}, "no run"),
        ({"settings": {"train": {"seed": 3}}}, "seeds, not train.seed"),
        ({"runs": {"x": {"train": {"seed": 3}}}}, "seeds in place of train.seed"),
        ({"seeds": [0, 2**32]}, "train.seed: input should be less than 4294967296"),
    ],
    ids=str,
)
def test_what_is_wrong_with_a_study_is_reported(
    changes: dict[str, object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        Study.load(written(tmp_path, **changes))


def test_forms_are_a_model_and_its_storage() -> None:
    assert Form.of("compact sparse int8") == Form("compact", "sparse", "int8")
    assert Form.of("source int4") == Form("source", "int4", "int4")


@pytest.mark.parametrize(
    ("settings", "fitting"),
    [
        ({"train.objective": "dense"}, {"source fp32", "one-shot fp16"}),
        ({"train.objective": "dense", "prune.fraction": 0}, {"source fp32"}),
        ({}, {"source fp32", "compact auto", "compact sparse fp16"}),
        ({"prune.fraction": 0.4}, {"source fp32", "compact auto"}),
        ({"prune.granularity": "column"}, {"source fp32", "compact auto"}),
    ],
    ids=str,
)
def test_forms_fit_the_runs_that_have_their_model(
    settings: dict[str, object], fitting: set[str]
) -> None:
    config = preset("metasd").override(settings)
    forms = ("source fp32", "compact auto", "compact sparse fp16", "one-shot fp16")
    assert {form for form in forms if Form.of(form).fits(config)} == fitting


def test_a_study_starts_from_its_preset(tmp_path: Path) -> None:
    runs = {"x": {"model.rank": 3}}
    store = ["compact auto"]
    settings = {"train.epochs": 2}
    changes = {"model.rank": 3, **settings}
    for name in ("metasd", "default"):
        path = written(tmp_path, preset=name, runs=runs, store=store, settings=settings)
        assert Study.load(path).runs["x"].config == preset(name).override(changes)
    content = {"graph": "families", "runs": runs, "settings": settings}
    assert Study.of(content).runs["x"].config == Config().override(changes)


@pytest.mark.parametrize("name", ["metasd", "default"])
def test_a_source_takes_the_place_of_the_warm_up(tmp_path: Path, name: str) -> None:
    runs = {"dense": {"train.objective": "dense"}, "small": {"source": "dense"}}
    store = ["source fp32", "compact auto"]
    study = Study.load(written(tmp_path, preset=name, runs=runs, store=store))
    small = study.runs["small"].config
    compact = (small.compact.weights, small.compact.source, small.compact.warmup_epochs)
    assert compact == ("separate", "dense", 0)
    assert not Form.of("source fp32").fits(small)
    contradiction = {"train.epochs": 2, "compact.warmup_epochs": 1}
    runs["small"] |= contradiction  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"takes the place of compact.warmup_epochs"):
        Study.load(written(tmp_path, preset=name, runs=runs, store=store))


def test_the_source_of_a_run_that_is_not_there_is_refused(tmp_path: Path) -> None:
    runs = {"a": {"source": "dense"}, "dense": {"train.objective": "dense"}}
    with pytest.raises(InputError, match="no run above it is called 'dense'"):
        Study.load(written(tmp_path, runs=runs))
    runs = {"dense": {"train.objective": "dense", "seeds": [1]}, "z": {"source": "dense"}}
    with pytest.raises(InputError, match="its source 'dense' has no seed 0"):
        Study.load(written(tmp_path, runs=runs))


def test_nested_settings_are_those_of_dotted_keys(tmp_path: Path) -> None:
    dotted = Study.load(written(tmp_path))
    settings = {"model": {"rank": 8}, "train": {"epochs": 1, "batch_size": 400}}
    runs = {
        "dense": {"train": {"objective": "dense"}},
        "prune": {"train.objective": "compact", "prune": {"fraction": [0.5, 0.9]}},
    }
    assert Study.load(written(tmp_path, settings=settings, runs=runs)) == dotted


def test_a_key_given_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text("graph: families:60\nruns:\n  a: {model.rank: 4}\n  a: {model.rank: 5}\n")
    with pytest.raises(InputError, match="'a' in line 4 is there a second time"):
        Study.load(path)
    path.write_text("graph: families:60\nruns: &a\n  x: *a\n")
    with pytest.raises(InputError, match="aliases are not read"):
        Study.load(path)
