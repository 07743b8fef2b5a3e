"""What is wrong with a representation, why, and what to try."""

from glocal.diagnostics.collapse import Diagnosis, check_features, diagnose, paints

__all__ = ["Diagnosis", "check_features", "diagnose", "paints"]
