"""The claims, one file for each paper or family, in order of value."""

from __future__ import annotations

from replications.claims import (
    architectures,
    clustering,
    co_ssl,
    collapse,
    contrastive,
    learns,
    low_shot,
    multi_crop,
    transformers,
    vicregl,
)
from replications.plan import Claim

HOURS = 41
"""Processor hours that all claims may take together, but for the pilots."""
CLAIMS: tuple[Claim, ...] = (
    *vicregl.CLAIMS[:1],
    *learns.CLAIMS,
    *vicregl.CLAIMS[1:],
    *co_ssl.CLAIMS,
    *contrastive.CLAIMS,
    *multi_crop.CLAIMS,
    *low_shot.CLAIMS,
    *transformers.CLAIMS,
    *clustering.CLAIMS,
    *collapse.CLAIMS,
    *architectures.CLAIMS,
)
