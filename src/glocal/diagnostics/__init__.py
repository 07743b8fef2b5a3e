"""What is wrong with a representation, why, and what to try."""

from glocal.diagnostics.collapse import Diagnosis, check_features, diagnose
from glocal.diagnostics.rank import rankme, redundancy, similarity_within, spectrum, spread
from glocal.diagnostics.receptive_field import (
    EffectiveField,
    ReceptiveField,
    effective_receptive_field,
    receptive_field,
)

__all__ = [
    "Diagnosis",
    "EffectiveField",
    "ReceptiveField",
    "check_features",
    "diagnose",
    "effective_receptive_field",
    "rankme",
    "receptive_field",
    "redundancy",
    "similarity_within",
    "spectrum",
    "spread",
]
