"""Verbs: VFC, on clips of things that move."""

from __future__ import annotations

from replications.claims.arms import more
from replications.plan import Arm, Claim

RUN = "replications.verbs:train"
LEARN = {"backbone": "test_resnet", "batch_size": 32, "max_steps": 300, "lr": 5e-4}
PLAIN = {"hard": 0, "verb_weight": 0.0}
LEARNS = more("VFC sees verbs", "verb", "vfc-clips", "still-clips")
VFC = Claim(
    name="vfc",
    world="own",
    arms=(
        Arm("vfc-clips", LEARN, run=RUN),
        Arm("contrast-clips", LEARN | PLAIN, run=RUN),
        Arm("still-clips", LEARN | {"still": True}, run=RUN),
        Arm("uncalibrated-clips", LEARN | {"calibrate": False}, run=RUN),
        Arm("without-phrases-clips", LEARN | {"verb_weight": 0.0}, run=RUN),
    ),
    seeds=tuple(range(6)),  # four left the nouns open
    minutes=3,
    paper="Momeni et al. Verbs in Action. ICCV 2023",
    text="Told from sentences that differ in the verb only, clips come to be told by their verbs, and no worse by"
    " their nouns; without calibration, verbs that are often wrong are thought wrong.",
    published="From CLIP's weights: zero-shot verbs of Kinetics and MSR-VTT's multiple choice above plain contrast by"
    " several points, nouns as before.",
    statements=(
        more("verbs: plain contrast above still clips", "verb", "contrast-clips", "still-clips", least=0.02),
        more("verbs: above plain contrast", "verb", "vfc-clips", "contrast-clips", least=0.02, premise=LEARNS),
        more("nouns: no worse by two points", "noun", "vfc-clips", "contrast-clips", margin=0.02),
        more("calibration: verbs", "verb", "vfc-clips", "uncalibrated-clips", least=0.02, premise=LEARNS),
        more("without calibration, the more often a negative, the further away", "bias", "vfc-clips",
             "uncalibrated-clips", premise=LEARNS),
        more("verb phrases: verbs", "verb", "vfc-clips", "without-phrases-clips", least=0.02, premise=LEARNS),
    ),
    missing="Videos of people, a language model that writes the negatives, CLIP's weights: a small replication.",
)  # fmt: skip
CLAIMS = (VFC,)
