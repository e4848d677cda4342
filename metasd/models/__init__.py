"""Scoring functions, one short file each, their regularizers, and the model: two views of tables.

Scoring functions need numpy alone; `model` and `regularizers` need torch.
"""

from .base import Scoring
from .complex import ComplEx
from .cp import CP
from .distmult import DistMult
from .rescal import RESCAL

__all__ = ["CP", "RESCAL", "ComplEx", "DistMult", "Scoring"]
