"""What changes from epoch to epoch: phases, learning rate, sparsity; pure functions of a Config.

Epochs are counted from 0.
"""

from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from metasd.config import Config  # benchmarks/gpu.py runs where there is no pydantic


class Phase(Enum):
    """What the steps of an epoch do."""

    SOURCE = "source"
    """The source learns alone: `train.objective = dense`, or within `compact.warmup_epochs`."""

    SHARED = "shared"
    """Source and compact model, a mask over the same weights, teach each other."""

    SEPARATE = "separate"
    """The compact model trains weights of its own; the source moves by the meta gradient only."""


def phase(config: "Config", epoch: int) -> Phase:
    """The phase of an epoch."""
    if config.train.objective == "dense" or epoch < config.warmup_epochs:
        return Phase.SOURCE
    return Phase.SEPARATE if config.has_separate_weights else Phase.SHARED


def is_source_frozen(config: "Config", epochs: int) -> bool:
    """Whether no step after so many epochs changes the source."""
    alone = config.has_separate_weights and config.train.objective != "metasd"
    return alone and epochs >= config.warmup_epochs


def is_exact(config: "Config", epoch: int) -> bool:
    """Whether the steps of an epoch take no shortcuts: no sampled gradients, no shared queries.

    So it is in the first epoch of an optimizer whose sums start at zero. Adagrad divides by their
    roots: a row that no triple has asked for yet moves by its whole rate, however small its
    gradient is, and would follow the noise of chance. After an epoch the sums know every row.
    """
    fresh = config.has_separate_weights and config.compact.optimizer_state == "fresh"
    if config.compact.source is not None:
        return fresh and epoch == 0
    return epoch == 0 or (fresh and epoch == config.warmup_epochs)


def lr_factor(config: "Config", epoch: int, epochs_done: float) -> float:
    """The factor of the learning rate, which falls to 0 over the last `train.decay` of the steps.

    With separate weights the source's epochs and the compact model's each have a schedule.

    Args:
        epochs_done: steps so far, in epochs.
    """
    start, end, decay = 0, config.train.epochs, config.train.decay
    if config.has_separate_weights:
        warmup = config.warmup_epochs
        start, end = (0, warmup) if epoch < warmup else (warmup, end)
    left = 1 - (epochs_done - start) / (end - start)
    return left / decay if left < decay else 1.0


def prune_fraction(config: "Config", epoch: int) -> float:
    """The share of the compact model's weights that the mask drops in an epoch."""
    prune = config.prune
    epoch -= config.warmup_epochs
    if config.train.objective == "dense" or epoch < 0:
        return 0.0
    if prune.schedule == "constant" or epoch >= prune.ramp_epochs:
        return prune.fraction
    return prune.fraction * (1 - (1 - epoch / prune.ramp_epochs) ** 3)


def is_mask_due(config: "Config", epoch: int) -> bool:
    """Whether the masks are drawn again before the first step of an epoch."""
    if phase(config, epoch) is Phase.SOURCE:
        return False
    due = (epoch - config.warmup_epochs) % config.prune.every == 0
    return due or prune_fraction(config, epoch) != prune_fraction(config, epoch - 1)


def unfinished_epochs(config: "Config") -> int:
    """Epochs before the compact model is as sparse as configured; none of them can be the best."""
    if config.train.objective == "dense":
        return 0
    ramp = config.prune.ramp_epochs if config.prune.schedule == "cubic" else 0
    return config.warmup_epochs + ramp
