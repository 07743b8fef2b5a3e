"""Pictures out of features and of noise: generators and their samples."""

from glocal.generation.generator import Generator, load_generator, save_generator
from glocal.generation.sample import grid, write_samples

__all__ = ["Generator", "grid", "load_generator", "save_generator", "write_samples"]
