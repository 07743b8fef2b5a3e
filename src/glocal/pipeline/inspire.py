"""Pictures that an encoder or a person likes, made and written down; see `glocal.inspire`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from glocal.backbones import Backbone
from glocal.data.files import existing
from glocal.data.images import open_image
from glocal.data.source import Unreadable
from glocal.errors import UsageError
from glocal.evaluation.extract import device_of, eval_image, eval_mode
from glocal.generation.inspire import Inspiration, pictures
from glocal.generation.likeness import Likeness, normal
from glocal.generation.pixels import seen
from glocal.generation.preference import Session
from glocal.generation.search import By, search, starts
from glocal.progress import Progress
from glocal.report.predictions import Card, write_page
from glocal.run import write_atomically

SHOWN = 256
"""Side of a picture of a page, pixels, at least."""


def read_picture(path: str | Path) -> Image.Image:
    """The picture in a file; a `UsageError` if it is none."""
    try:
        return Image.fromarray(open_image(existing(Path(path))).decode())
    except Unreadable as error:
        raise UsageError(f"--like {path}: {error}; give an image file") from error


def square(picture: Image.Image, size: int, device: Any) -> Tensor:
    """Its largest central square, (3, size, size) in [0, 1]."""
    pixels = np.asarray(eval_image(picture, size, crop_pct=1.0)).copy()
    return torch.from_numpy(pixels).permute(2, 0, 1).to(device) / 255


def image_of(pixels: Tensor) -> Image.Image:
    """A PIL image of (3, h, w) in [0, 1], give or take."""
    array = pixels.detach().clamp(0, 1).mul(255).round().byte().permute(1, 2, 0)
    return Image.fromarray(array.cpu().numpy())


def see(
    encoders: dict[str, Backbone],
    like: str,
    out: Path,
    *,
    image_size: int | None,
    steps: int,
    seed: int,
    progress: Progress | None = None,
) -> dict[str, Image.Image]:
    """A page of what encoders see in a picture, pooled and place by place; by encoder the photograph and both."""
    picture, cards, strips = read_picture(like), [], {}
    for name, encoder in encoders.items():
        target = square(picture, image_size or encoder.image_size, device_of(encoder))
        with eval_mode(encoder):
            options: dict[str, Any] = {"steps": steps, "seed": seed, "progress": progress}
            ways = [seen(encoder, target, dense=dense, **options) for dense in (False, True)]
        row = [target, *(found.pixels for found in ways)]
        said = f"pooled, {ways[0].distance:.2f} left; place by place, {ways[1].distance:.2f} left"
        cards.append(Card(name, said, [_large(image_of(pixels)) for pixels in row]))
        strips[name] = image_of(torch.cat(row, dim=2))
    remarks = [
        "Below each photograph, pixels that were made from noise until an encoder sees the same in them: in one vector"
        " of the whole (pooled), at the bottom place by place. What it has not kept of the photograph is left open.",
        "Left is how far apart both still are to the encoder, as a share of how far a blank image is.",
    ]
    write_page(out, f"What is seen in {Path(like).name}", remarks, cards)
    return strips


def inspired(
    generator: Any,
    encoders: dict[str, Backbone],
    like: str,
    out: Path,
    *,
    by: By,
    dense: bool,
    number: int,
    evaluations: int,
    image_size: int | None,
    judge: Backbone | None,
    seed: int,
) -> Path:
    """Pictures of a generator that encoders see as they see another, the nearest first, in a folder with a page.

    Args:
        generator, encoders, judge: on one device, in evaluation mode; `judge` is the encoder whose features the
            generator's `realism` reads.
        like, by, dense, evaluations, image_size, seed: as in `glocal.inspire`.
        out: the folder.
        number: of pictures.
    """
    device = device_of(generator)
    at = starts(generator.latent_shape, number, seed, device=device)
    with torch.no_grad():
        made = pictures(generator, at[:1]).shape[-1]
    picture, likenesses = read_picture(like), []
    for name, encoder in encoders.items():
        if image_size is None and encoder.image_size != made:
            raise UsageError(
                f"the generator makes images of {made} px, and {name} is made for {encoder.image_size} px: give"
                f" --image-size {made}, or --image-size {encoder.image_size} to enlarge what it sees"
            )
        likenesses.append(Likeness(encoder, square(picture, image_size or made, device), dense=dense))
    realism = None if judge is None else lambda images: generator.realism(judge(normal(judge, images)).pooled)[:, 0]
    cost = Inspiration(generator, likenesses, realism)
    best = search(cost, at, by=by, evaluations=evaluations, seed=seed)
    with torch.no_grad():
        images = pictures(generator, best.latents)
        distances = cost.distance(images)
    order = best.costs.argsort().tolist()
    cards = [Card(str(like), "the picture", [_large(image_of(square(picture, made, device)))])]
    for place, k in enumerate(order, 1):
        _save(image_of(images[k]), out / f"{place}.png")
        cards.append(Card(f"{place}.png", f"distance {float(distances[k]):.3f}", [_large(image_of(images[k]))]))
    latents = best.latents[order].cpu().numpy()
    write_atomically(out / "latents.npy", lambda path: _save_array(path, latents))
    remarks = [f"{len(order)} searches by {by}, {evaluations} evaluations each, with {', '.join(encoders)}"]
    remarks.append("Distance: to the encoder, as a share of a blank image's.")
    write_page(out / "index.html", f"Inspired by {Path(like).name}", remarks, cards)
    return out


def choose(generator: Any, session: Session, out: Path, ask: Callable[[str], str]) -> Path:
    """Ask which of a few pictures is the best, until no number is given; the best is left in `out`."""
    device, count = device_of(generator), session.count
    while True:
        images = _show(generator, session.ask().to(device), out, len(session.answers) + 1)
        answer = ask(
            f"question {len(session.answers) + 1}, {out / 'index.html'}: which is best, 1 to {count}? "
        ).strip()
        if not answer:
            break
        if answer.isdecimal() and 1 <= int(answer) <= count:
            _save(images[int(answer) - 1], out / "best.png")
            session.tell(int(answer) - 1)
        else:
            print(f"{answer} is no number from 1 to {count}; an empty line ends it")
    return out


def _show(generator: Any, latents: Tensor, out: Path, question: int) -> list[Image.Image]:
    """Candidates as numbered pictures and a page."""
    with torch.no_grad():
        images = [image_of(each) for each in pictures(generator, latents)]
    for place, image in enumerate(images, 1):
        _save(image, out / f"{place}.png")
    cards = [Card(f"{place}.png", f"{place}", [_large(image)]) for place, image in enumerate(images, 1)]
    remark = "1 is the best so far" if question > 1 else "drawn at random"
    write_page(out / "index.html", f"Question {question}: which is best?", [remark], cards)
    return images


def _large(image: Image.Image) -> Image.Image:
    """Pixels as squares, where there are few."""
    times = -(-SHOWN // max(image.size))
    return image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST) if times > 1 else image


def _save(image: Image.Image, path: Path) -> None:
    write_atomically(path, lambda partial: image.save(partial, "PNG"))


def _save_array(path: Path, array: np.ndarray) -> None:
    with open(path, "wb") as file:
        np.save(file, array)
