"""What videos are made of: the phases of a procedure, from a few marked frames or a few labelled videos."""

from glocal.sequences.phases import from_marks, from_prior, similarity
from glocal.sequences.scores import phase_scores, segments

__all__ = ["from_marks", "from_prior", "phase_scores", "segments", "similarity"]
