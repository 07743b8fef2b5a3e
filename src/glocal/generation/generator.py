"""Generators: what makes images of random numbers, by name (`glocal.plugins`), and their files."""

from pathlib import Path
from typing import Any, Protocol

from safetensors.torch import save_file
from torch import Tensor

from glocal.backbones.weights import read_weights
from glocal.errors import UsageError
from glocal.plugins import GUIDE, find, refuse_untrusted
from glocal.run import Run, read_json, write_atomically, write_json


class Generator(Protocol):
    """A map from latents to images: an `nn.Module`.

    Any callable with a `latent_shape` can be sampled and searched; `config` is what it takes to be saved. Of a method
    that has a `generator`, it is saved with the encoder.

    Attributes:
        latent_shape: of one latent. Latents are standard normal: what is drawn from N(0, I) gives likely images.
        config: JSON values; "name", that of what builds it, registered under `glocal.generators` or module:attribute,
            and the keywords that this takes.
    """

    latent_shape: tuple[int, ...]
    config: dict[str, Any]

    def __call__(self, z: Tensor) -> Tensor:
        """Images (B, 3, h, w), RGB in [0, 1], of latents (B, *latent_shape), on their device.

        Differentiable in z, hence not clamped: values may overshoot a little.
        """


def save_generator(generator: Any, directory: str | Path, **extra: Any) -> None:
    """Write the two files of a generator, each whole or not at all; `extra`, JSON values, is kept with it."""
    weights, about = Run(directory).generator_files
    tensors = {key: value.detach().cpu().contiguous() for key, value in generator.state_dict().items()}
    write_atomically(weights, lambda path: save_file(tensors, path, metadata={"format": "pt"}))
    described = {"config": generator.config, "latent_shape": list(generator.latent_shape)}
    write_json(about, described | {"extra": extra})


def load_generator(directory: str | Path, *, trust_code: bool = False) -> Any:
    """The generator of a run, or of a folder with its two files, in evaluation mode, on the CPU.

    Raises:
        UsageError: if there is none, or it cannot be read.
    """
    run = Run(directory)
    if not run.has_generator:
        state = "makes no images; runs of --method flow, irmae and dcgan do, once they have ended"
        raise UsageError(f"{directory} {state if run.path.exists() else 'does not exist'}")
    weights, about = run.generator_files
    config = read_json(about, "save the generator again").get("config")
    if not isinstance(config, dict) or "name" not in config:
        raise UsageError(f"{about} does not say how to build the generator; save it again")
    name, arguments = str(config["name"]), {key: value for key, value in config.items() if key != "name"}
    consent = f"glocal.generation.load_generator({str(directory)!r}, trust_code=True)"
    inside = [str(value.get("name")) for value in arguments.values() if isinstance(value, dict)]  # of backbones
    refuse_untrusted([name, *inside], origin=about, trust_code=trust_code, command=consent)
    build = find("generators", name)
    try:
        generator: Any = build(**arguments)
        generator.load_state_dict(read_weights(weights))
    except AttributeError as error:
        raise UsageError(f"generator '{name}' is no nn.Module: {error} ({GUIDE})") from error
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"{weights} or {about} is damaged ({reason}); save the generator again") from error
    return generator.eval()
