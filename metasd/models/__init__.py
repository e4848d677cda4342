"""Scoring functions, one short file each. `Scoring.named` finds every subclass by its name."""

from .base import Scoring
from .complex import ComplEx
from .cp import CP
from .distmult import DistMult
from .rescal import RESCAL

__all__ = ["CP", "RESCAL", "ComplEx", "DistMult", "Scoring"]
