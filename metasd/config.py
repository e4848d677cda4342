"""The one typed configuration object, and its presets."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from metasd.errors import InputError, error_context, nearest
from metasd.files import read_yaml, write_text
from metasd.models.base import Scoring
from metasd.settings import (
    PRESETS,
    dotted,
    explain,
    flatten,
    merge,
    minutes,
    nested,
    parse,
    size_limit,
)


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_default=True, allow_inf_nan=False)


class ModelConfig(_Section):
    name: str = Field("complex", description="scoring function: complex, distmult, cp or rescal")
    rank: int = Field(
        200, ge=1, le=1 << 16, description="coordinates per entity (ComplEx: complex ones)"
    )

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        return Scoring.named(name).name


_NO_BOOLEAN = BeforeValidator(
    lambda given: given if not isinstance(given, bool) else "true" if given else "off"
)
"""YAML's booleans as words, so that none is read as a number; `off` may be meant."""

_Threshold = Annotated[Literal["auto", "off"] | Annotated[float, Field(gt=0, le=1)], _NO_BOOLEAN]
_Candidates = Annotated[Literal["auto", "all"] | Annotated[int, Field(ge=1)], _NO_BOOLEAN]
_Count = Annotated[Literal["auto"] | Annotated[int, Field(ge=1)], _NO_BOOLEAN]
_Teachers = Annotated[
    Annotated[int, Field(ge=1)] | Annotated[list[str], Field(min_length=1)], _NO_BOOLEAN
]


class TrainConfig(_Section):
    objective: Literal["metasd", "distill", "compact", "dense"] = Field(
        "distill",
        description="metasd: the published method; distill: without its meta step; compact: the "
        "compact model learns without a teacher; dense: the source alone",
    )
    source_step: bool = Field(
        True, description="step 0 of the method; else the source learns in step 3 alone"
    )
    epochs: int = Field(20, ge=1, description="passes over train, inverse triples included")
    max_steps: int | None = Field(None, ge=1, description="stop after this many steps in all")
    batch_size: int = Field(1000, ge=1, description="triples per step, inverse triples counted")
    lr: float = Field(0.1, gt=0, description="Adagrad's rate in steps 0 and 3")
    decay: float = Field(
        0.3, ge=0, le=1, description="fraction of the steps, the last ones, in which lr falls to 0"
    )
    entity_weights: bool = Field(
        False,
        description="weight an entity as an answer by 0.1 + 0.9 count / max, scaled to a mean of 1",
    )
    seed: int = Field(0, ge=0, lt=1 << 32, description="of initial tables, batches and the quiz")
    precision: Literal["auto", "fp32", "tf32", "bf16"] = Field(
        "auto", description="of matrix products; auto: bf16 where the processor is fast at it"
    )
    score_memory: int = Field(256 << 20, ge=1 << 16, description="bytes for blocks of scores")
    gradient_sampling: _Threshold = Field(
        "auto",
        description="threshold below which an entry of a softmax's gradient is kept only with the "
        "probability that makes it right on average; auto: 0.03 where that saves time, "
        "on CPUs without tile registers; off, on a GPU, and in an optimizer's first epoch: every "
        "entry counts",
    )
    candidates: _Candidates = Field(
        "auto",
        description="entities that a batch is scored against: its own answers, and so many in all "
        "with others that are drawn (a quarter at least), each counted as often as makes a softmax "
        "over them an estimate of that over all; auto: all of fewer than 100,000 entities, else 4 "
        "per triple of a batch",
    )
    triples_per_query: _Count = Field(
        "auto",
        description="so many triples of one head and relation, at most, stay together in a batch, "
        "where they are scored as one query; 1, and an optimizer's first epoch: triples in random "
        "order; auto: 8 where that saves time, on CPUs",
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: cuda if there is one")


class RegularizerConfig(_Section):
    name: Literal["dura", "n3", "ivr", "none"] = Field(
        "dura", description="DURA (2020), N3 (2018) or IVR (2024), which adds products to N3"
    )
    weight: float = Field(0.1, ge=0, description="lambda, the factor of the penalty")
    product_weight: float = Field(0.1, ge=0, description="of the moduli of products, in IVR")
    power: float = Field(3.0, ge=2, le=8, description="of the moduli, in IVR")


class RelationPredictionConfig(_Section):
    weight: float = Field(1.0, ge=0, description="of the relation cross entropy; 0 turns it off")


class PruneConfig(_Section):
    fraction: float = Field(
        0.0, ge=0, lt=1, description="share of the compact model's weights that the mask drops"
    )
    every: int = Field(1, ge=1, description="epochs between two masks")
    schedule: Literal["constant", "cubic"] = Field(
        "constant", description="cubic: the share rises from 0 to the fraction"
    )
    ramp_epochs: int = Field(10, ge=1, description="cubic: epochs until the fraction is reached")
    granularity: Literal["weight", "row", "column"] = Field(
        "weight",
        description="what competes: all weights, those of each row, or whole coordinates",
    )


class CompactConfig(_Section):
    size: str | None = Field(
        None,
        description="the most that the compact model's tables may take: a share of the source's "
        "fp32 bytes such as 1/20, or a size such as 3MB; weight formats and columns follow from it",
    )
    weights: Literal["shared", "separate"] = Field(
        "separate",
        description="shared: the source's tables under a mask; separate: a copy of them, trained "
        "on by itself",
    )
    weight_format: Literal["fp32", "int8", "int4", "int3", "int2", "ternary"] = Field(
        "int3", description="levels that the weights are rounded to, in training and when stored"
    )
    relation_format: Literal["int8", "int4", "int3", "int2"] = Field(
        "int8", description="levels of relations, where weight_format rounds at all"
    )
    warmup_epochs: float = Field(
        0.62,
        ge=0,
        description="epochs of the source alone, before there is a compact model; below 1: a share "
        "of all epochs",
    )
    lr: float = Field(0.1, gt=0, description="Adagrad's rate of separate weights")
    optimizer_state: Literal["fresh", "source"] = Field(
        "fresh", description="what separate weights' Adagrad starts with: nothing, or the source's"
    )
    source: str | None = Field(
        None, description="separate: a run whose source is taken over, in place of warmup_epochs"
    )

    @field_validator("size", mode="before")
    @classmethod
    def _share(cls, size: object) -> object:
        if size is None or isinstance(size, bool):
            return size
        size_limit(str(size))
        return str(size)

    @property
    def size_limit(self) -> tuple[float, int | None]:
        """`size` as a share and as bytes: see `settings.size_limit`."""
        return size_limit(str(self.size))

    @field_validator("warmup_epochs", mode="before")
    @classmethod
    def _number(cls, epochs: object) -> object:
        if isinstance(epochs, bool):
            raise ValueError(f"must be a number; got {epochs}")
        return epochs

    @field_validator("warmup_epochs")
    @classmethod
    def _whole(cls, epochs: float) -> float:
        if epochs > 1 and epochs != int(epochs):
            raise ValueError(f"must be whole, or a share below 1; got {epochs}")
        return epochs if 0 < epochs < 1 else int(epochs)


class DistillConfig(_Section):
    temperature: float = Field(1.5, ge=1e-3, le=1e3, description="tau of both softmaxes")
    forward_weight: float = Field(15.0, ge=0, description="of KL(source || compact) in step 1")
    backward_weight: float = Field(0.0, ge=0, description="of KL(compact || source) in step 1")
    teachers: _Teachers = Field(
        1,
        description="sources that teach separate weights in turn, which the divergence from source "
        "to compact model takes as their mean: the run's own, and others of as many seeds, which "
        "the run trains first; or, in place of a number, the runs that they are of",
    )
    meta_lr: float = Field(1e-4, gt=0, description="Adagrad's rate along the meta gradient")
    inner_lr: float = Field(0.1, gt=0, description="rate of the temporary compact model's step")
    quiz_fraction: float = Field(0.02, gt=0, le=1, description="share of train that is the quiz")
    quiz_held_out: bool = Field(False, description="leave the quiz out of training")
    quiz_batch_size: int | None = Field(
        None, ge=1, description="quiz triples per step; default: train.batch_size"
    )


class EvalConfig(_Section):
    every: int = Field(5, ge=1, description="epochs between validations")
    sample: int | None = Field(
        None,
        ge=1,
        description="triples of a split that are ranked in validations and at the end, drawn once; "
        "default: all",
    )
    metric: str = Field("compact.mrr", description="model.metric that picks the best checkpoint")
    patience: int = Field(
        0, ge=0, description="validations without a gain before stopping; 0: never"
    )

    @field_validator("metric")
    @classmethod
    def _known(cls, metric: str) -> str:
        known = [
            f"{m}.{k}"
            for m in ("compact", "source")
            for k in ("mrr", "hits@1", "hits@3", "hits@10")
        ]
        if metric not in known:
            raise ValueError(
                f"must be one of {', '.join(known)}; got {metric!r}{nearest(metric, known)}"
            )
        return metric


SIZED = (
    "compact.weight_format",
    "compact.relation_format",
    "prune.granularity",
    "prune.fraction",
)
"""Settings that follow from `compact.size`."""

TUNABLE = (
    "model.rank",
    "train.epochs",
    "train.batch_size",
    "train.lr",
    "regularizer.weight",
    "relation_prediction.weight",
    *SIZED,
)
"""Settings that can be chosen for the graph at hand."""


class TuneConfig(_Section):
    settings: list[str] = Field(
        list(TUNABLE),
        description="settings that are chosen for the graph: by default all that can be and that "
        "are not given; a setting given as `auto` is one of them",
    )
    budget: float | None = Field(
        None,
        ge=0,
        description="minutes for the search on valid that chooses, or a time such as 90s, 1m30s "
        "or 1h; 0: by rules alone; default: somewhat less work than the training",
    )

    @field_validator("budget", mode="before")
    @classmethod
    def _time(cls, budget: object) -> object:
        return minutes(budget) if isinstance(budget, str) else budget

    @field_validator("settings")
    @classmethod
    def _tunable(cls, settings: list[str]) -> list[str]:
        if unknown := [key for key in settings if key not in TUNABLE]:
            raise ValueError(f"may hold {', '.join(TUNABLE)}; got {unknown[0]!r}")
        return [key for key in TUNABLE if key in settings]


class CheckpointConfig(_Section):
    every: int = Field(1, ge=1, description="epochs between checkpoints")
    minutes: float = Field(10.0, gt=0, description="and at least every so many minutes")


class Config(_Section):
    """Every setting of a run. `Config(train={"epochs": 5})`, `Config.load(path)`, `override()`."""

    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    regularizer: RegularizerConfig = RegularizerConfig()
    relation_prediction: RelationPredictionConfig = RelationPredictionConfig()
    prune: PruneConfig = PruneConfig()
    compact: CompactConfig = CompactConfig()
    distill: DistillConfig = DistillConfig()
    eval: EvalConfig = EvalConfig()
    tune: TuneConfig = TuneConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**_chosen(TUNABLE, nested(values)))
        except ValidationError as error:
            raise InputError(explain(error, _keys())) from None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        dense = self.train.objective == "dense"
        if dense and self.eval.metric.startswith("compact."):
            self.eval.metric = self.eval.metric.replace("compact.", "source.")
        if self.compact.warmup_epochs >= 1 and self.warmup_epochs >= self.train.epochs:
            raise ValueError(
                f"compact.warmup_epochs = {self.compact.warmup_epochs} leaves the compact model "
                f"none of train.epochs = {self.train.epochs}: {self.warmup_epochs + 1} are needed"
            )
        if self.has_separate_weights and not (self.compact.warmup_epochs or self.compact.source):
            raise ValueError(
                "compact.weights = separate needs compact.warmup_epochs, in which its source "
                "learns, or compact.source, a run whose source it takes over"
            )
        if self.compact.source and not self.has_separate_weights:
            raise ValueError(
                "compact.source needs compact.weights = separate, and an objective with a compact "
                f"model; got {self.compact.weights}, {self.train.objective}"
            )
        if self.compact.source and self.compact.warmup_epochs:
            raise ValueError(
                "compact.source takes the place of compact.warmup_epochs: set that to 0; got "
                f"{self.compact.warmup_epochs}"
            )
        several = isinstance(self.distill.teachers, int) and self.distill.teachers > 1
        if several and self.has_teacher and not self.compact.warmup_epochs:
            raise ValueError(
                f"distill.teachers = {self.distill.teachers} needs compact.warmup_epochs, in which "
                "they learn; where there is compact.source, list their runs"
            )
        if self.model.name == "rescal":  # whose relations act on all coordinates at once
            for key, value in (("prune.granularity", "column"), ("regularizer.name", "ivr")):
                if self.flat()[key] == value:
                    raise ValueError(f"{key} = {value} is not possible with model.name = rescal")
        return self

    @property
    def has_separate_weights(self) -> bool:
        """Whether there is a compact model with weights of its own."""
        return self.train.objective != "dense" and self.compact.weights == "separate"

    @property
    def has_teacher(self) -> bool:
        """Whether separate weights also learn from a source, or from several."""
        return self.has_separate_weights and self.train.objective != "compact"

    @property
    def warmup_epochs(self) -> int:
        """Epochs of the source alone, before there is a compact model."""
        if self.train.objective == "dense":
            return 0
        requested = self.compact.warmup_epochs
        if 0 < requested < 1:
            most = self.train.epochs - 1
            return max(min(round(requested * self.train.epochs), most), 1)
        return int(requested)

    @staticmethod
    def load(path: str | Path) -> "Config":
        """Reads a YAML file, nested or with dotted keys; what it leaves out has its default."""
        return Config().override(Config.read(path))

    @staticmethod
    def read(path: str | Path) -> dict[str, Any]:
        """The dotted keys and values that a YAML file sets, checked."""
        values = read_yaml(path) or {}
        if not isinstance(values, dict):
            raise InputError(f"{path}: expected keys and values; got {type(values).__name__}")
        flat = dotted(values)
        with error_context(path):
            Config(**flat)
        return flat

    def save(self, path: str | Path) -> None:
        write_text(Path(path), yaml.safe_dump(self.model_dump(), sort_keys=False))

    def override(self, settings: Sequence[str] | Mapping[str, Any]) -> "Config":
        """A copy with dotted keys changed: `["train.lr=0.2", ...]` or `{"train.lr": 0.2, ...}`."""
        if isinstance(settings, str) or not isinstance(settings, Mapping | Sequence):
            raise InputError(
                'settings are a dict, or a list such as ["train.lr=0.1"] (presets: metasd.preset); '
                f"got {settings!r}"
            )
        if not isinstance(settings, Mapping):
            settings = dict(parse(setting) for setting in settings)
        changes = _chosen(self.tune.settings, nested(settings))
        return Config(**merge(self.model_dump(), changes))

    def flat(self) -> dict[str, Any]:
        """Dotted keys and their values."""
        return dict(flatten(self.model_dump()))


def _keys() -> list[str]:
    return [key for key, _ in flatten(Config.model_construct().model_dump())]


def _chosen(tuned: Sequence[str], values: dict[str, Any]) -> dict[str, Any]:
    """Nested values with what they leave of `tune.settings`.

    A setting that is given leaves the list; one given as `auto` joins it, and what follows from
    `compact.size` joins with that. A list that is given itself stands.
    """
    given = dict(flatten(values))
    if given.get("compact.size") is not None and not {*tuned} & {*SIZED}:
        tuned = [*tuned, *SIZED]
    left: Any = given.get("tune.settings", [key for key in tuned if key not in given])
    if not isinstance(left, list) or "tune" in given:
        return values  # pydantic words what is wrong
    for key in TUNABLE:
        if given.get(key) == "auto":
            left = [*left, key]
            section, _, name = key.partition(".")
            values = {**values, section: {k: v for k, v in values[section].items() if k != name}}
    return merge(values, {"tune": {"settings": left}})


def preset(name: str = "default") -> Config:
    """A named configuration; see `PRESETS`. `default` is `Config()`, what `train` does by itself.

    Raises:
        InputError: no preset has this name.
    """
    if not isinstance(name, str) or name not in PRESETS:
        raise InputError(
            f"unknown preset {name!r}; there are {', '.join(PRESETS)}" + nearest(str(name), PRESETS)
        )
    return Config(**PRESETS[name])
