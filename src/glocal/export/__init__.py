"""Handing the encoder over."""
