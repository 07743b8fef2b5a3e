"""What a model card says of an encoder that a run has trained."""

from __future__ import annotations

from pathlib import Path

from glocal.config import PretrainConfig
from glocal.methods import citation
from glocal.run import Run


def encoder_card(encoder: str | Path) -> dict[str, str] | None:
    """Rows for a model card, where the encoder is a run's."""
    run = Run(encoder)
    if not run.config_file.exists():
        return None
    config, facts = PretrainConfig.from_dict(run.config()), run.encoder().get("extra", {})
    title, paper = citation(config.method)
    return {
        "Method": title,
        "Paper": paper,
        "Images": f"{facts.get('images', 0):,}",
        "Steps": f"{facts.get('steps', 0):,}",
        "Image size": f"{config.image_size} px",
    }
