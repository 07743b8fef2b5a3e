"""What is wrong with a representation, why, and what to try."""

from glocal.diagnostics.collapse import Diagnosis, check_features, diagnose
from glocal.diagnostics.rank import rankme, redundancy, similarity_within, spectrum, spread

__all__ = [
    "Diagnosis",
    "check_features",
    "diagnose",
    "rankme",
    "redundancy",
    "similarity_within",
    "spectrum",
    "spread",
]
