"""The configuration of a pretraining run."""

RENAMED = {"trust": "trust_coefficient"}
"""Options by the names that older config.yaml files have."""
