"""Studies: runs by name, over seeds, and the accuracy and bytes of their models.

A study is a YAML file:

    graph: WN18RR
    preset: metasd                                    # what runs start from; default: default
    seeds: [0, 1]
    settings: {model.rank: 256, train.epochs: 20}     # of every run
    runs:
      dense: {train.objective: dense}
      small: {train.objective: dense, model.rank: 25}
      metasd: {prune.fraction: [0.8, 0.9, 0.95]}      # a list: one run per value
      again: {train.epochs: 40, seeds: [0]}           # of these seeds alone
      int3: {source: dense, train.objective: compact, compact.weight_format: int3}
    store: [source fp16, source int8, compact sparse fp16, compact auto, one-shot sparse fp16]

`source: NAME` takes over the source of the same seed of a run above: the compact model has separate
weights (`compact.weights`, `compact.source`) and no warm-up (`compact.warmup_epochs: 0`).

`store` lists the forms in which finished models are stored and measured: a model (`source`;
`compact`, of runs that have one; `one-shot`, the source of a dense run pruned once at the end by
`prune.fraction`) and its storage (`fp32`, `fp16`, `int8`, `int4`, `int3`, `int2`, `ternary`,
`sparse` or `column` with a weight format, or `auto`: what fits the model).
"""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from metasd.config import Config, preset
from metasd.errors import InputError, error_context
from metasd.export.encode import encode
from metasd.files import read_description
from metasd.settings import dotted

MODELS = ("source", "compact", "one-shot")
FORMS = {
    "fp32": ("column", "fp32"),
    "fp16": ("column", "fp16"),
    "int8": ("int8", "int8"),
    "int4": ("int4", "int4"),
    "int3": ("int3", "int3"),
    "int2": ("int2", "int2"),
    "ternary": ("ternary", "ternary"),
    "auto": ("auto", "auto"),
}
"""Codec and weight format of the forms that have a name."""

_KEYS = ("graph", "preset", "seeds", "settings", "runs", "store")


@dataclass(frozen=True)
class Form:
    """A model of a run, and how it is stored."""

    model: str
    codec: str
    weight_format: str

    @staticmethod
    def of(text: str) -> "Form":
        model, *stored = str(text).split()
        if model not in MODELS:
            raise InputError(f"store: {text!r} must begin with one of {', '.join(MODELS)}")
        if len(stored) == 1 and stored[0] in FORMS:
            return Form(model, *FORMS[stored[0]])
        if len(stored) == 2 and stored[0] in ("sparse", "column"):
            codec, weight_format = stored
            with error_context(f"store: {text!r}"):
                encode(np.ones((1, 1), np.float32), codec, weight_format)
            return Form(model, codec, weight_format)
        known = f"{', '.join(FORMS)}, or sparse or column with a weight format"
        raise InputError(f"store: {text!r} must say how the model is stored: {known}")

    def fits(self, config: Config) -> bool:
        """Whether a run has the model, and one that is mostly zeros where only those are stored.

        A source that was taken over is measured where it was trained.
        """
        prune, dense = config.prune, config.train.objective == "dense"
        if self.model == "source":
            return not config.compact.source
        if self.model == "one-shot":
            return dense and prune.fraction > 0
        if self.codec == "sparse":
            return not dense and prune.granularity != "column" and prune.fraction >= 0.5
        return not dense


@dataclass(frozen=True)
class Planned:
    """A run of a study: its settings, its seeds, and the run whose source it takes over."""

    config: Config
    seeds: tuple[int, ...]
    source: str | None

    def seeded(self, seed: int) -> Config:
        return self.config.override({"train.seed": seed})


@dataclass(frozen=True)
class Study:
    """What a study's file says, checked, with its grids written out."""

    graph: str
    runs: dict[str, Planned]
    store: dict[str, Form]

    @staticmethod
    def load(path: str | Path) -> "Study":
        """Reads a study; InputError says what in it is wrong."""
        content = read_description(path, "a study", "runs", _KEYS)
        with error_context(path):
            return Study.of(content)

    @staticmethod
    def of(content: Mapping[str, Any]) -> "Study":
        """Checks the keys and values of a study's file."""
        if not isinstance(content["runs"], dict):
            raise InputError("runs must be names with settings")
        base = preset(str(content.get("preset", "default")))
        seeds = _seeds(content.get("seeds", [0]))
        common = _settings(content.get("settings"), "settings")
        if "train.seed" in common:
            raise InputError("settings: seeds, not train.seed, says which")
        runs: dict[str, Planned] = {}
        for name, given in content["runs"].items():
            own = _settings(given, f"run {name}")
            chosen = _seeds(own.pop("seeds")) if "seeds" in own else seeds
            source = own.pop("source", None)
            if not str(name) or "train.seed" in own:
                raise InputError(f"run {name!r} needs a name, and seeds in place of train.seed")
            for label, settings in _grid(str(name), own):
                with error_context(f"run {label}"):
                    runs[label] = _planned(base, common, settings, chosen, source, runs)
        given = content.get("store", ["source fp32"])
        if not isinstance(given, list) or not given:
            raise InputError(f"store must be a list of forms; got {given!r}")
        store = {str(text): Form.of(text) for text in given}
        for label, run in runs.items():
            if not any(form.fits(run.config) for form in store.values()):
                raise InputError(f"run {label}: no form of store is of a model that it has")
        folders = [folder_name(label, seed) for label, run in runs.items() for seed in run.seeds]
        if twice := [folder for folder in folders if folders.count(folder) > 1]:
            raise InputError(f"two runs have the folder {twice[0]}: rename one")
        return Study(str(content["graph"]), runs, store)


def run_name(label: str, seed: int) -> str:
    """The name of one training in `results.json`."""
    return f"{label}, seed {seed}"


def folder_name(label: str, seed: int) -> str:
    """The name of its run folder."""
    return "".join(c if c.isalnum() or c in "-_.=" else "_" for c in run_name(label, seed))


def _planned(
    base: Config,
    common: Mapping[str, Any],
    settings: Mapping[str, Any],
    seeds: tuple[int, ...],
    source: Any,
    above: Mapping[str, Planned],
) -> Planned:
    """A run with its settings checked, and its source among the runs above it."""
    if source is None:
        return Planned(base.override({**common, **settings}), seeds, None)
    if not isinstance(source, str) or source not in above:
        raise InputError(f"source: no run above it is called {source!r}")
    if missing := sorted(set(seeds) - set(above[source].seeds)):
        raise InputError(f"its source {source!r} has no seed {missing[0]}")
    taken_over = {"compact.weights": "separate", "compact.source": source}
    config = base.override({**common, "compact.warmup_epochs": 0, **settings, **taken_over})
    if config.model != above[source].config.model:
        raise InputError(f"its source {source!r} is another model")
    return Planned(config, seeds, source)


def _seeds(given: Any) -> tuple[int, ...]:
    whole = isinstance(given, list) and all(type(seed) is int for seed in given)
    if not whole or not given or len(set(given)) < len(given):
        raise InputError(f"seeds must be a list of different whole numbers; got {given!r}")
    for seed in given:
        Config(train={"seed": seed})
    return tuple(given)


def _settings(given: Any, where: str) -> dict[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise InputError(f"{where} must be keys and values; got {given!r}")
    return dotted(given)


def _grid(name: str, settings: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(label, settings) for every choice among the lists."""
    lists = {key: value for key, value in settings.items() if isinstance(value, list)}
    if empty := [key for key, values in lists.items() if not values]:
        raise InputError(f"run {name}: {empty[0]} has no values")
    for chosen in itertools.product(*lists.values()):
        choice = dict(zip(lists, chosen, strict=True))
        label = " ".join([name, *(f"{key}={value}" for key, value in choice.items())])
        yield label, {**settings, **choice}
