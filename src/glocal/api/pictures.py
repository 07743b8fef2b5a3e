"""Pictures inspired by another: by what an encoder sees in it, or by what a person likes."""

from __future__ import annotations

import shlex
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Literal

from glocal.api.encoders import show_in_report
from glocal.api.opening import opened_encoder
from glocal.errors import UsageError
from glocal.progress import shown_progress


def inspire(
    generator: str,
    *,
    out: str,
    like: str | None = None,
    by: Literal["gradient", "cma", "oneplusone", "random", "preference"] = "gradient",
    encoder: list[str] | None = None,
    dense: bool = False,
    n: int = 4,
    evaluations: int | None = None,
    image_size: int | None = None,
    seed: int = 0,
    device: str = "auto",
    trust_code: bool = False,
) -> Path:
    """Make pictures like one, or see what an encoder sees in it.

    Args:
        generator: a run that generates images; or "pixels", made directly: what encoders see in the picture.
        out: the folder to write; of pixels, an HTML file.
        like: an image file.
        by: how to search. "cma" (covariance matrix adaptation) and "oneplusone" (comparisons only) need no gradient,
            but nevergrad; "preference" asks you which of a few is best, and needs neither picture nor encoder: the
            same command again goes on.
        encoder: what `load` takes, as whom to see; several count alike.
        dense: compare place by place, so that the layout, too, is to be the same. Of pixels both ways are shown.
        n: pictures to make, or to choose among.
        evaluations: looks at a latent of each picture, or at pixels; by default 300 and 200.
        image_size: side at which the encoders see, pixels; by default their own, which is to be the generator's.
        seed: of all that is drawn.
        device: "auto" (CUDA where there is one, else MPS, else the CPU), "cpu", "cuda", "cuda:1" or "mps".
        trust_code: import what files name as module:attribute.

    Returns:
        What was written.

    Raises:
        UsageError: if the run generates nothing, the picture is none, or generator and encoder are of other sizes.
        TrainingStopped: if the generator gives no numbers.
    """
    from glocal.backbones.encoder import digest
    from glocal.evaluation.extract import placed
    from glocal.generation import load_generator
    from glocal.generation.preference import Session
    from glocal.pipeline.inspire import choose, inspired, see
    from glocal.run import Run, write_atomically

    direct, names = generator == "pixels", list(dict.fromkeys(encoder or []))
    _check(direct=direct, by=by, like=like, encoders=names, n=n, evaluations=evaluations)
    where = Path(out)
    if where.exists() and where.is_file() != direct:
        kinds = ("a folder", "an HTML file") if direct else ("a file", "a folder")
        raise UsageError(f"--out {out} is {kinds[0]}; give {kinds[1]}")
    made: Any = None if direct else load_generator(generator, trust_code=trust_code)
    opened = {name: opened_encoder(name, "student", None, image_size, trust_code) for name in names}
    if texts := [name for name, each in opened.items() if each.reads != "images"]:
        raise UsageError(f"--encoder {texts[0]} reads text; give one of images")
    with ExitStack() as held:
        encoders = {name: held.enter_context(placed(each, device)) for name, each in opened.items()}
        settings: dict[str, Any]
        if direct:
            assert like is not None
            progress = held.enter_context(shown_progress())
            settings = {"image_size": image_size, "seed": seed, "progress": progress}
            strips = see(encoders, like, where, steps=evaluations or 200, **settings)
        elif by == "preference":
            made = held.enter_context(placed(made, device))
            session = Session(where / "session.json", made.latent_shape, count=n, seed=seed, about=str(digest(made)))
            choose(made, session, where, _read)
            again = ["glocal", "inspire", generator, "--by", "preference", "--out", out]
            again += [f"--{name}={value}" for name, value, usual in (("n", n, 4), ("seed", seed, 0)) if value != usual]
            again += ["--trust-code"] if trust_code else []
            print(f"{len(session.answers)} answers are kept; to go on: {shlex.join(again)}", file=sys.stderr)
        else:
            assert like is not None
            made = held.enter_context(placed(made, device))
            judge = None
            if hasattr(made, "realism"):
                judge = held.enter_context(placed(opened_encoder(generator, "student", None, None, trust_code), device))
            settings = {"number": n, "evaluations": evaluations or 300, "image_size": image_size, "seed": seed}
            inspired(made, encoders, like, where, by=by, dense=dense, judge=judge, **settings)
    for name, strip in strips.items() if direct else ():
        if (run := Run(name)).report_file.is_file():
            write_atomically(run.seen_file, partial(strip.save, format="PNG"))
            show_in_report(run, device=device, trust_code=trust_code)
    return where


def _check(*, direct: bool, by: str, like: str | None, encoders: list[str], n: int, evaluations: int | None) -> None:
    if direct and by != "gradient":
        raise UsageError(f"--by {by}: pixels are made by gradient; leave --by out")
    if by != "preference" and (like is None or not encoders):
        raise UsageError("give a picture and an encoder, --like photo.jpg --encoder runs/NAME, or --by preference")
    if not 1 <= n <= 1000:
        raise UsageError(f"--n {n}: 1 to 1,000 pictures")
    if evaluations is not None and evaluations < 3:
        raise UsageError(f"--evaluations {evaluations}: at least 3 looks")


def _read(question: str) -> str:
    """A line of the terminal; an empty one where there is none."""
    try:
        return input(question)
    except EOFError:
        return ""
