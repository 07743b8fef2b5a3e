"""Generators: what makes images of random numbers, by name (`glocal.plugins`), and their files."""

from pathlib import Path
from typing import Any, Protocol

from safetensors.torch import load_file, save_file
from torch import Tensor

from glocal.errors import UsageError
from glocal.plugins import GUIDE, find, names, refuse_untrusted
from glocal.run import Run, read_json, write_atomically, write_json


class Generator(Protocol):
    """A map from latents to images: an `nn.Module`, registered under `glocal.generators`, `GENERATOR(**config)`.

    Any callable with a `latent_shape` can be searched and sampled; the rest is what it takes to be saved.

    Attributes:
        latent_shape: of one latent. Latents are standard normal: what is drawn from N(0, I) gives likely images.
        config: its constructor's arguments, JSON values.
    """

    latent_shape: tuple[int, ...]
    config: dict[str, Any]

    def __call__(self, z: Tensor) -> Tensor:
        """Images (B, 3, h, w), RGB in [0, 1], of latents (B, *latent_shape), on their device.

        Differentiable in z, hence not clamped: values may overshoot a little.
        """


def save_generator(generator: Any, directory: str | Path, **extra: Any) -> None:
    """Write the two files of a generator, each whole or not at all; `extra`, JSON values, is kept with it."""
    cls = type(generator)
    place = f"{cls.__module__}:{cls.__qualname__}"
    name = next((name for name in names("generators") if find("generators", name) is cls), place)
    weights, about = Run(directory).generator_files
    tensors = {key: value.detach().cpu().contiguous() for key, value in generator.state_dict().items()}
    write_atomically(weights, lambda path: save_file(tensors, path, metadata={"format": "pt"}))
    described = {"generator": name, "config": generator.config, "latent_shape": list(generator.latent_shape)}
    write_json(about, described | {"extra": extra})


def load_generator(directory: str | Path, *, trust_code: bool = False) -> Any:
    """The generator of a run or of a folder with its two files, in evaluation mode, on the CPU.

    Raises:
        UsageError: if there is none, or it cannot be read.
    """
    run = Run(directory)
    if not run.has_generator:
        if not run.path.exists():
            raise UsageError(f"{directory} does not exist; give the directory of a run that generates images")
        raise UsageError(f"{directory} generates no images; a run of --method flow or irmae does, once it has ended")
    weights, about = run.generator_files
    said = read_json(about, "save the generator again")
    name = str(said.get("generator"))
    consent = f"glocal.generate({str(directory)!r}, trust_code=True)"
    refuse_untrusted([name], origin=about, trust_code=trust_code, command=consent)
    cls = find("generators", name)
    if not (isinstance(cls, type) and hasattr(cls, "load_state_dict")):
        raise UsageError(f"generator '{name}': `{getattr(cls, '__name__', cls)}` is no nn.Module ({GUIDE})")
    try:
        generator: Any = cls(**said["config"])
        generator.load_state_dict(load_file(weights))
    except (KeyError, TypeError, ValueError, RuntimeError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"{weights} or {about} is damaged ({reason}); save the generator again") from error
    return generator.eval()
