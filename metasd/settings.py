"""Settings as they are written: `key=value`, dotted keys, nested sections; presets."""

import contextlib
import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from pydantic import ValidationError

from metasd.errors import InputError, nearest


def parse(setting: str) -> tuple[str, Any]:
    """Key and value of `key=value`; the value is YAML."""
    key, equals, value = setting.partition("=")
    if not equals or not key.strip():
        raise InputError(f"a setting is written key=value, such as train.lr=0.1; got {setting!r}")
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError:
        parsed = value
    if isinstance(parsed, str):
        with contextlib.suppress(ValueError):
            parsed = float(parsed)  # YAML 1.1 reads 1e-4, without a point, as text
    return key.strip(), parsed


def dotted(values: Mapping[Any, Any]) -> dict[str, Any]:
    """Dotted keys and values of settings that are nested, dotted, or both."""
    try:
        return dict(flatten(nested({str(key): value for key, value in values.items()})))
    except RecursionError:
        raise InputError("settings are nested without an end") from None


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys as nested dictionaries."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        first, dot, rest = key.partition(".")
        found = merge(found, {first: nested({rest: value}) if dot else value})
    return found


def merge(below: dict[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dictionaries as one; where both have a value, that of `above`."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = (
            merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
        )
    return merged


def flatten(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Dotted keys and values of nested dictionaries."""
    pairs: list[tuple[str, Any]] = []
    for key, value in values.items():
        pairs += (
            flatten(value, f"{prefix}{key}.")
            if isinstance(value, dict)
            else [(prefix + key, value)]
        )
    return pairs


def minutes(text: str) -> float:
    """A time such as 90s, 1m30s, 2.5m or 1h in minutes; without a unit, minutes.

    Raises:
        ValueError: it is something else.
    """
    number = r"(\d+(?:\.\d*)?|\.\d+)"
    parts = re.fullmatch(f"(?:{number}h)?(?:{number}m)?(?:{number}s)?", text) if text else None
    if parts is not None:
        hours, whole, seconds = (float(part or 0) for part in parts.groups())
        return 60 * hours + whole + seconds / 60
    if re.fullmatch(number, text):
        return float(text)
    raise ValueError(f"must be a time such as 90s, 1m30s, 10m, 2.5m or 1h; got {text!r}")


_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KI": 2**10, "MI": 2**20, "GI": 2**30}


def size_limit(text: str) -> tuple[float, int | None]:
    """A share such as 1/20, 0.05 or 5%, and None; or infinity, and the bytes of 3MB or 3MiB.

    Raises:
        ValueError: it is something else.
    """
    number = r"(\d+(?:\.\d*)?|\.\d+)"
    if found := re.fullmatch(rf"{number}\s*((?:[kMG]i?)?)B", text, re.IGNORECASE):
        size = int(float(found[1]) * _UNITS[found[2].upper()])
        if size > 0:
            return float("inf"), size
    elif found := re.fullmatch(rf"{number}\s*%", text):
        if 0 < float(found[1]) < 100:
            return float(found[1]) / 100, None
    elif found := re.fullmatch(rf"{number}(?:\s*/\s*{number})?", text):
        share = float(found[1]) / (float(found[2]) or float("inf")) if found[2] else float(found[1])
        if 0 < share < 1:
            return share, None
    raise ValueError(
        f"must be a share of the source's bytes such as 1/20, 0.05 or 5%, or a size such as 300kB "
        f"or 3MB; got {text!r}"
    )


def explain(error: ValidationError, keys: Sequence[str]) -> str:
    """One line for the first thing that is wrong; `keys`: the dotted keys that there are."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        key = next((k for k, _ in flatten({key: first["input"]})), key)
        last = {k.rpartition(".")[2]: k for k in reversed(keys)}
        if key == "preset":
            return "a preset is no setting: choose it by --preset, or by metasd.preset(name)"
        close = nearest(key, keys)
        if not close and (found := difflib.get_close_matches(key, last, n=1)):
            close = f'; did you mean "{last[found[0]]}"?'
        return f"unknown setting {key}{close}"
    if first["type"] in ("model_type", "model_attributes_type"):
        return f"{key} is a section: set {key}.<key>, not {key} itself"
    message = first["msg"].removeprefix("Value error, ")
    if union := next((k for k in keys if key.startswith(f"{k}.")), ""):
        branches = [
            e["msg"] for e in error.errors() if ".".join(map(str, e["loc"])).startswith(union)
        ]
        if len(branches) > 1:
            wanted = (branch.removeprefix("Input should be ") for branch in branches)
            key, message = union, f"input should be {' or '.join(wanted)}"
    if not key:
        return message
    got = f"got {first['input']!r}"
    if got not in message:
        message = f"{message[0].lower()}{message[1:]}; {got}"
    return message if key in message else f"{key}: {message}"


# MetaSD (Findings of EMNLP 2022): the compact model is the source's tables under a magnitude mask
# that keeps a tenth; the two teach each other. At a rank and batch that a CPU trains.
_METASD: dict[str, Any] = {
    "tune.settings": [],
    "train.objective": "metasd",
    "train.decay": 0.0,
    "compact.weights": "shared",
    "compact.weight_format": "fp32",
    "compact.warmup_epochs": 0,
    "compact.lr": 0.03,
    "prune.fraction": 0.9,
    "distill.temperature": 3.0,
    "distill.forward_weight": 3.0,
    "distill.backward_weight": 1.0,
}

_PAPER: dict[str, Any] = {
    **_METASD,
    "model.name": "complex",
    "model.rank": 2000,
    "train.epochs": 200,
    "train.lr": 0.1,
    "distill.meta_lr": 1e-4,
    "distill.inner_lr": 0.1,
    "regularizer.name": "dura",
    "eval.every": 5,
    "eval.patience": 4,
}

# What WordNet's graphs gain from: answers weighted by how often they are answers, a strong
# regularizer for many epochs, and candidates, which make those short.
_WN18RR: dict[str, Any] = {
    "tune.settings": [],
    "model.rank": 1000,
    "train.epochs": 60,
    "train.decay": 0.4,
    "train.candidates": 3000,
    "train.entity_weights": True,
    "regularizer.weight": 0.1,
    "relation_prediction.weight": 0.0,
    "compact.warmup_epochs": 50,
    "prune.granularity": "column",
    "prune.fraction": 0.52,
}

PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "metasd": _METASD,
    "wn18rr": _WN18RR,
    "fb15k-237-paper": {
        **_PAPER,
        "train.batch_size": 5000,
        "regularizer.weight": 0.05,
        "relation_prediction.weight": 4.0,
    },
    "wn18rr-paper": {
        **_PAPER,
        "train.batch_size": 1000,
        "regularizer.weight": 0.1,
        "relation_prediction.weight": 0.0,
        "train.entity_weights": True,
    },
}
"""By name, the settings in which a preset differs from `Config()`.

`default`: self-distillation with quantization-aware training and structured pruning. The source
learns for three fifths of the epochs; then the compact model, a copy of its largest columns, learns
from the triples and from the source, with weights of few bits. `metasd`: self-distillation with
dynamic pruning and a meta gradient. `wn18rr`: the best found on that graph for tables of less than
16 MB. `*-paper`: the settings that MetaSD was published with.
"""
