"""CP (canonical polyadic; Lacroix et al., ICML 2018): sum of h r t, heads and tails apart."""

from .distmult import DistMult


class CP(DistMult):
    name = "cp"
    entity_roles = 2
