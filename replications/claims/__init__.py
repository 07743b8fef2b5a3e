"""The claims, one file for each paper or family, in order of value."""

from __future__ import annotations

from replications.claims import (
    adapted,
    architectures,
    asking,
    clustering,
    co_ssl,
    collapse,
    contrastive,
    extended,
    fair,
    generating,
    inspiring,
    learns,
    low_shot,
    multi_crop,
    naming,
    search,
    shapes,
    transformers,
    verbs,
    vicregl,
    watching,
)
from replications.plan import Claim

HOURS = 72
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
    *fair.CLAIMS,
    *collapse.CLAIMS,
    *search.CLAIMS,
    *asking.CLAIMS,
    *naming.CLAIMS,
    *shapes.CLAIMS,
    *adapted.CLAIMS,
    *extended.CLAIMS,
    *generating.CLAIMS,
    *architectures.CLAIMS,
    *verbs.CLAIMS,
    *watching.CLAIMS,
    *inspiring.CLAIMS,
)
