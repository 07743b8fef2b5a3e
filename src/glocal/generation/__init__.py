"""Pictures out of features and of noise: generators and their samples."""

from glocal.generation.generator import Generator, load_generator, save_generator

__all__ = ["Generator", "load_generator", "save_generator"]
