"""Settings: files, `key=value` strings, presets, and one clear line for every mistake."""

from pathlib import Path

import pytest

from metasd.config import TUNABLE, Config, preset
from metasd.errors import InputError
from metasd.settings import PRESETS


def test_a_saved_configuration_loads_equal(tmp_path: Path) -> None:
    config = preset("metasd").override(["distill.meta_lr=1e-4", "model.name=cp"])
    config.save(tmp_path / "c.yaml")
    assert Config.load(tmp_path / "c.yaml") == config


def test_files_may_nest_or_dot_their_keys(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("train.epochs: 3\nmodel:\n  rank: 7\ntrain:\n  lr: 0.5\n")
    config = Config.load(path)
    assert (config.train.epochs, config.model.rank, config.train.lr) == (3, 7, 0.5)


def test_strings_become_the_types_of_their_keys() -> None:
    config = preset("metasd").override(
        [
            "train.lr=1e-2",
            "distill.quiz_held_out=False",
            "train.max_steps=null",
            "model.name=cp",
            "train.gradient_sampling=off",
        ]
    )
    assert config.train.lr == 0.01
    assert config.distill.quiz_held_out is False
    assert config.train.max_steps is None
    assert config.train.gradient_sampling == "off"


def test_the_published_presets() -> None:
    fb, wn = preset("fb15k-237-paper"), preset("wn18rr-paper")
    assert (fb.model.rank, fb.train.batch_size, fb.regularizer.weight) == (2000, 5000, 0.05)
    assert (fb.relation_prediction.weight, fb.train.entity_weights) == (4.0, False)
    assert (wn.train.batch_size, wn.regularizer.weight, wn.train.entity_weights) == (
        1000,
        0.1,
        True,
    )
    assert preset("default") == preset() == Config()
    published = [name for name in PRESETS if name not in ("default", "wn18rr")]
    assert all(preset(name).prune.fraction == 0.9 for name in published)


@pytest.mark.parametrize(("epochs", "warmup"), [(20, 12), (33, 20), (65, 40), (3, 2), (2, 1)])
def test_a_source_has_a_share_of_the_epochs(epochs: int, warmup: int) -> None:
    assert preset().override({"train.epochs": epochs}).warmup_epochs == warmup
    assert (
        preset().override({"compact.warmup_epochs": 1, "train.epochs": epochs}).warmup_epochs == 1
    )
    assert preset().override(["train.objective=dense"]).warmup_epochs == 0


def test_a_compact_model_needs_an_epoch_too() -> None:
    assert preset().override(["train.epochs=1"]).warmup_epochs == 1  # a share may leave it none
    for setting, message in (
        ("compact.warmup_epochs=200", r"warmup_epochs = 200 leaves the compact model none"),
        ("compact.warmup_epochs=1.5", r"compact\.warmup_epochs: must be whole, or .*; got 1\.5"),
        ("compact.warmup_epochs=yes", r"compact\.warmup_epochs: must be a number; got True"),
        ("compact.warmup_epochs=.nan", r"compact\.warmup_epochs: .*finite number; got nan"),
        (
            "compact.source=x",
            r"takes the place of compact\.warmup_epochs: set that to 0; got 0\.62",
        ),
        (
            "compact.weights=shared compact.source=x",
            r"needs compact\.weights = separate.*; got shared, distill",
        ),
    ):
        with pytest.raises(InputError, match=message):
            preset().override(setting.split())
    assert preset().override(["compact.warmup_epochs=3.0"]).compact.warmup_epochs == 3


def test_dense_is_chosen_by_its_only_model() -> None:
    assert preset("metasd").override(["train.objective=dense"]).eval.metric == "source.mrr"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("train.epocs=3", 'unknown setting train.epocs; did you mean "train.epochs"'),
        ("lr=2", 'unknown setting lr; did you mean "train.lr"'),
        ("train.epochs=0", "train.epochs: .*greater than or equal to 1; got 0"),
        ("train.epochs=many", "train.epochs: .*valid integer"),
        ("prune.fraction=1.5", "prune.fraction: .*less than 1; got 1.5"),
        ("train=3", "train is a section"),
        ("model.name=complx", 'did you mean "complex"'),
        ("eval.metric=mrr", "eval.metric: .*got 'mrr'; did you mean \"source.mrr\""),
        ("epochs", "written key=value"),
        ("train.lr=nan", "train.lr: .*; got nan"),
        ("regularizer.weight=.inf", "regularizer.weight: .*finite number; got inf"),
        ("model.rank=1.5", "model.rank: .*valid integer.*; got 1.5"),
        ("model.name=[cp]", r"model.name: .*valid string; got \['cp'\]"),
        ("train.candidates=yes", "train.candidates: .*'auto' or 'all'.*; got 'true'"),
        ("distill.teachers=true", "distill.teachers: .*; got 'true'"),
        ("distill.teachers=[]", r"distill.teachers: .*; got \[\]"),
        ("trian.epochs=3", 'unknown setting trian.epochs; did you mean "train.epochs"'),
    ],
)
def test_a_mistake_is_one_clear_line(setting: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        preset("metasd").override([setting])
    assert "\n" not in str(caught.value)


def test_column_granularity_needs_coordinates() -> None:
    with pytest.raises(InputError, match=r"column is not possible with model\.name = rescal"):
        preset("metasd").override(["model.name=rescal", "prune.granularity=column"])


def test_an_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(InputError, match='did you mean "wn18rr"'):
        preset("wn18r")


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [", "not YAML"), ("- 1\n", "expected keys and values; got list"), ("x: 1\n", "unknown")],
)
def test_a_bad_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        Config.load(path)
    assert str(path) in str(caught.value)
    with pytest.raises(InputError, match="No such file"):
        Config.load(tmp_path / "none.yaml")


def test_settings_that_are_given_are_not_chosen_for_the_graph() -> None:
    assert preset().tune.settings == list(TUNABLE)
    given = preset().override({"model.rank": 64, "regularizer.weight": 0.1})
    assert given.tune.settings == [
        k for k in TUNABLE if k not in ("model.rank", "regularizer.weight")
    ]
    assert Config(**given.flat()) == given  # a list that is given stands
    assert preset("metasd").tune.settings == []
    again = preset("metasd").override(["regularizer.weight=auto", "train.lr=0.2"])
    assert again.tune.settings == ["regularizer.weight"]
    assert given.override({"tune.settings": []}).model.rank == 64
    for setting, message in (
        ("tune.settings=[lr]", r"tune\.settings: may hold model\.rank, .*; got 'lr'"),
        ("tune=3", "tune is a section"),
        ("eval.every=auto", r"eval\.every: .*got 'auto'"),
    ):
        with pytest.raises(InputError, match=message):
            preset().override([setting])
