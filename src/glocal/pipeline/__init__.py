"""A run from its configuration to its report: launched, prepared, trained, concluded."""

from glocal.pipeline.conclude import encoder_table, score_table
from glocal.pipeline.start import code_in, continue_run, start_run, stored_config, trained_method

__all__ = [
    "code_in", "continue_run", "encoder_table", "score_table", "start_run", "stored_config", "trained_method",
]  # fmt: skip
