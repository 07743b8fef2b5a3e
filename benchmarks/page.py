"""`python -m benchmarks.page`: docs/performance.md, its figures, docs/reliability.md, made of the JSON files alone."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import reliability
from benchmarks.plots import figure_growth, figure_losses, figure_pretrain, figure_profile, figure_quality
from benchmarks.tables import DOCS, RESULTS, measured_on, number, read, table, title

HEAD = """# Performance

How fast Glocal is beside [lightly](https://github.com/lightly-ai/lightly) and scikit-learn, and how much of the
hardware training uses. Measured by `python -m benchmarks`, which installs the peers (one part:
`python -m benchmarks losses`); this page is made of `benchmarks/results/` by `python -m benchmarks.page`. What is
compared alternates within one run; figures are medians over rounds, ratios the medians of the rounds' ratios. Targets
stand beside what was measured on each machine, reached or not.

Speed beside a peer is a statement about a machine: what is twice lightly's with AMX is 1.4 times without.
"""


def write_page(results: Path = RESULTS, docs: Path = DOCS) -> Path:
    """Write the page and its figures; a benchmark that has not been run is named as such."""
    figures = docs / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    machines = {}
    for folder in sorted(path for path in results.iterdir() if path.is_dir()):
        if found := {name: kept for name in SECTIONS if (kept := read(folder / f"{name}.json"))}:
            machines[folder.name] = found
    parts = [HEAD.rstrip(), targets(machines)]
    for machine, found in machines.items():
        parts.append(f"# {title(next(iter(found.values()))['machine'])}")
        for name, section in SECTIONS.items():
            if name in found:
                shown = section(found[name]["measured"], figures, f"-{machine}")
                parts.append(f"{shown}\n\n{measured_on(found[name])}")
    page = docs / "performance.md"
    page.write_text("\n\n".join(parts).rstrip() + "\n")
    return page


def times(value: float) -> str:
    return f"{number(value)}×"


def mib(value: float) -> str:
    return number(value / 2**20)


def ms(value: float) -> str:
    return number(1000 * value)


def targets(machines: dict[str, dict[str, Any]]) -> str:
    """Every target beside what was measured on each machine, bold where it was not reached."""
    if not machines:
        return "Nothing has been measured yet."
    columns = {machine: checks(found) for machine, found in machines.items()}
    wanted = {what: goal for column in columns.values() for what, (goal, _) in column.items()}
    rows = [
        (what, goal, *(column.get(what, ("", "–"))[1] for column in columns.values())) for what, goal in wanted.items()
    ]
    names = [title(next(iter(found.values()))["machine"]) for found in machines.values()]
    return table(("Target", "Wanted", *names), rows)


def checks(found: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """What is aimed at -> how much is wanted, and what one machine measured."""
    rows: dict[str, tuple[str, str]] = {}

    def check(what: str, wanted: str, got: float, reached: bool, show: Callable[[float], str] = number) -> None:
        rows[what] = wanted, show(got) if reached else f"**{show(got)}**"

    if "losses" in found:
        cases = found["losses"]["measured"]["cases"]
        for case in cases:
            if case["target"]:
                speed = case["times_faster"]
                check(
                    f"loss, {loss_name(case)}", f"≥ {case['target']:g}× lightly", speed, speed >= case["target"], times
                )
        least = min(case["times_less_memory"] for case in cases)
        check("loss, peak memory, worst case", "≤ lightly's", 1 / least, least >= 1, times)
    for case in found["pretrain"]["measured"]["cases"] if "pretrain" in found else []:
        for name in case["times_lightly"]:
            label = short(case) + (", cached" if "cached" in name else ", from JPEG")
            if case["target_times_lightly"] and name in ("glocal", "glocal, cached"):
                got = case["times_lightly"][name]
                wanted = case["target_times_lightly"]
                check(f"images/s, {label}", f"≥ {wanted:g}× lightly", got, got >= wanted, times)
            if case["target_efficiency"]:
                small = case["image_size"] < 200
                wanted = 0.93 if "cached" in name and small else case["target_efficiency"]
                got = case["efficiency"][name]
                check(f"efficiency, {label}", f"≥ {wanted:g}", got, got >= wanted)
    if got := found.get("quality", {}).get("measured", {}).get("times_faster"):
        check("time to quality, CIFAR-10", "≤ ½ of lightly's", 1 / got, got >= 2, times)
    for case in found["masks"]["measured"]["cases"] if "masks" in found else []:
        for name, got in case["times_plain"].items():
            check(f"a step with {name}, {short(case)}", "≤ 1.15× without", got, got <= 1.15, times)
    if got := found.get("backbones", {}).get("measured"):
        grown = got["tokens"]["times_more"]
        check("XCA, 1,024 to 4,096 tokens", "≤ 5.5×", grown["xca"], grown["xca"] <= 5.5, times)
        check("attention, 1,024 to 4,096 tokens", "≥ 10×", grown["attention"], grown["attention"] >= 10, times)
        worst = max(case["times_fixed"] for case in got["steps"])
        check("FlexiViT, training step", "≤ 1.1× the fixed one's", worst, worst <= 1.1, times)
        faster = got["curve"]["times_finest"].get("32", 0.0)
        check("FlexiViT, patch 32 beside 8", "≥ 3× images/s", faster, faster >= 3, times)
    for case in found["evaluation"]["measured"]["linear"] if "evaluation" in found else []:
        label = f"linear grid, N {case['train']:,}, D {case['dim']:,}"
        got = case["times_faster"]
        check(label, f"≥ {case['target']}× one by one", got, got >= case["target"], times)
    if "packing" in found:
        packing = found["packing"]["measured"]
        got, even = packing["times_padded"], packing["times_square"]
        check("NaViT packed, sides 48–128", "≥ 1.5× padded", got, got >= 1.5, times)
        check("NaViT packed, as many tokens", "≥ 0.9× squares", even, even >= 0.9, times)
        for name, share in packing["waste"].items():
            check(f"NaViT, places wasted, {name}", "< 2%", share, share < 0.02, lambda share: f"{share:.1%}")
    if "search" in found:
        done = found["search"]["measured"]
        slower, rate, again = done["search"]["times_bare"], done["index"]["of_embed"], done["index"]["again"]
        check("search in an index", "≤ 1.3× product and topk", slower, slower <= 1.3, times)
        check("making an index", "≥ .95 of embed's rate", rate, rate >= 0.95)
        check("making it again", "≤ .02 of the time", again, again <= 0.02)
    if "sequences" in found:
        done = found["sequences"]["measured"]
        check(
            "frames of clips", "≥ .9 of images' rate", done["loader"]["of_images"], done["loader"]["of_images"] >= 0.9
        )
        for case in done["phases"]:
            label = f"phases of {case['frames']:,} frames, {case['neighbours']} neighbours"
            whole, faster = case["seconds"]["whole"]["median"], case["times_faster"]
            check(label, "≤ 10 s", whole, whole <= 10, lambda value: f"{number(value)} s")
            check(f"{label}: solving", "≥ 20× the dense one's speed", faster, faster >= 20, times)
    if "generation" in found:
        done = found["generation"]["measured"]
        step, seen = done["step"]["times_network"], done["distances"]["times_features"]["with FID"]
        check("a step of a flow", "≤ 1.1× its network's", step, step <= 1.1, times)
        check("FID of 5,000 images", "≤ 1.2× their features", seen, seen <= 1.2, times)
    return rows


def loss_name(case: dict[str, Any]) -> str:
    """Shape of a case in words."""
    if not case["cells"]:
        return f"VICReg, B {case['batch']}, {case['whole']}-d"
    return f"B {case['batch']}, {case['cells']}×{case['cells']}, local {case['local']}-d, global {case['whole']}-d"


def short(case: dict[str, Any]) -> str:
    """Method, backbone and size."""
    return f"{case['method']} {case['backbone']}@{case['image_size']}"


def losses(measured: dict[str, Any], figures: Path, suffix: str) -> str:
    rows = [
        (
            loss_name(case),
            ms(case["seconds"]["glocal"]["median"]),
            ms(case["seconds"]["lightly"]["median"]),
            times(case["times_faster"]),
            mib(case["peak_bytes"]["glocal"]),
            mib(case["peak_bytes"]["lightly"]),
            f"{case['relative_difference']['value']:.0e}",
            f"{case['relative_difference']['gradient']:.0e}",
        )
        for case in measured["cases"]
    ]
    head = (
        "Forward + backward",
        "Glocal, ms",
        "lightly, ms",
        "faster",
        "Glocal, MiB",
        "lightly, MiB",
        "value",
        "gradient",
    )
    figure_losses(measured, figures / f"losses{suffix}.svg")
    return (
        "## Losses\n\n"
        f"The whole VICRegL loss of two views ({measured['matches'][0]} and {measured['matches'][1]} matches) and the"
        " VICReg loss, in float32. Both libraries get the same inputs and grids of locations and fill their slots"
        " alike, so that they compute the same function; the last columns are relative differences in float64"
        " (in float32 near-ties between cells fall differently). Memory is the most"
        " that the tensors of one forward and backward hold at once, inputs not counted.\n\n"
        f"{table(head, rows)}\n\n![Times faster than lightly](figures/losses{suffix}.svg)"
    )


def pretrain(measured: dict[str, Any], figures: Path, suffix: str) -> str:
    rows = []
    for case in measured["cases"]:
        rates, names = case["images_per_second"], list(case["times_lightly"])
        for name in [*names, *(peer for peer in ("lightly, tuned", "lightly") if peer in rates)]:
            rows.append(
                (
                    f"{short(case)}, B {case['batch']}, width {case['width']}",
                    name,
                    number(rates[name]["median"]),
                    times(case["times_lightly"][name] if name in names else ratio_of(rates, name)),
                    times(tuned[name]) if name in (tuned := case.get("times_lightly_tuned", {})) else "",
                    f"{case['efficiency'][name]:.2f}",
                    f"{case['of_bare_backbone'][name]:.2f}",
                )
            )
        rows.append((" ", "*backbone, heads, optimiser*", number(rates["resident"]["median"]), "", "", "1", ""))
        rows.append((" ", "*backbone*", number(rates["bare"]["median"]), "", "", "", "1"))
    logged = [
        case["logged_images_per_second"] / case["images_per_second"]["glocal"]["median"]
        for case in measured["cases"]
        if case["logged_images_per_second"]
    ]
    note = f" (its own log says {statistics.median(logged):.2f}× of it)" if logged else ""
    figure_pretrain(measured, figures / f"pretrain{suffix}.svg")
    return (
        "## Pretraining, end to end\n\n"
        f"Photographs per second, two views each, {measured['precision']}, {measured['workers']} loader"
        f" worker(s), {measured.get('workers_of_lightly', measured['workers'])} of lightly's; photographs:"
        f" {measured['photos']}. Glocal is `glocal.pretrain` itself{note}; lightly is its"
        " transforms, data set, heads, loss and LARS in a plain loop, on the same timm backbone, widths, batch, matches"
        " and map stride. Efficiency is the rate over that of backbone, heads and optimiser on random input that lies"
        " on the device (channels_last, same precision and widths, mean square for a loss); beside it the rate over the"
        " bare backbone's, forward and backward. *Compiled*: the encoder alone, by torch.compile. *lightly, tuned*: in"
        " channels_last and with freed memory kept, as Glocal trains.\n\n"
        + table(("", "", "images/s", "of lightly's", "of lightly's, tuned", "efficiency", "of the backbone"), rows)
        + f"\n\n![Images per second](figures/pretrain{suffix}.svg)"
    )


def reached(curve: list[dict[str, float]], mark: float) -> float:
    """Processor seconds until a curve crosses the mark, straight between probes; infinite if it never does."""
    before = {"seconds": 0.0, "top1": 0.0}
    for point in curve:
        if point["top1"] >= mark:
            share = (mark - before["top1"]) / (point["top1"] - before["top1"])
            return before["seconds"] + share * (point["seconds"] - before["seconds"])
        before = point
    return math.inf


def ratio_of(rates: dict[str, Any], name: str) -> float:
    """A rate beside lightly's own."""
    return rates[name]["median"] / rates["lightly"]["median"]


def profile(measured: dict[str, Any], figures: Path, suffix: str) -> str:
    parts = []
    for case in measured["cases"]:
        total = sum(case["core_milliseconds"].values())
        rows = [
            (name, number(value), f"{100 * value / total:.1f}%") for name, value in case["core_milliseconds"].items()
        ]
        title = f"{short(case)}, B {case['batch']}"
        parts.append(table((f"{title}: {total:,.0f} ms a step", "core-ms", "share"), rows))
        parts.append(f"Backbone, heads and optimiser: {100 * case['share_of_work']:.1f}%.")
    figure_profile(measured, figures / f"profile{suffix}.svg")
    return (
        "## Where a step goes\n\n"
        "Processor time of each part of the real loop, streaming from JPEG on one thread without workers. Where all"
        " cores are busy, the share of backbone, heads and optimiser is the efficiency that can be had.\n\n"
        + "\n\n".join(parts)
        + f"\n\n![Shares of a step](figures/profile{suffix}.svg)"
    )


def loader(measured: dict[str, Any], figures: Path, suffix: str) -> str:
    names = list(measured["cases"][0]["milliseconds_per_image"])
    sizes = [f"{case['image_size']} px" for case in measured["cases"]]
    rows = [
        (name, *(number(case["milliseconds_per_image"][name]["median"]) for case in measured["cases"]))
        for name in names
    ]
    rows += [
        (f"{name}: times lightly's rate", *(times(case["times_lightly"][name]) for case in measured["cases"]))
        for name in measured["cases"][0]["times_lightly"]
    ]
    return (
        "## The loader alone\n\n"
        "Milliseconds of processor time per photograph, on one core: two views in VICReg's recipe, normalised."
        f" Photographs: {measured['photos']}.\n\n" + table(("core-ms", *sizes), rows)
    )


def evaluation(measured: dict[str, Any], figures: Path, suffix: str) -> str:
    knn = [
        (
            f"kNN, N {case['train']:,}, M {case['test']:,}, D {case['dim']:,}",
            ms(case["seconds"]["glocal"]["median"]),
            ms(case["seconds"]["scikit-learn"]["median"]),
            times(case["times_faster"]),
            f"{100 * case['same_predictions']:.1f}% same predictions",
        )
        for case in measured["knn"]
    ]
    linear = [
        (
            f"linear, {case['settings']} settings, {case['epochs']} epochs, N {case['train']:,}, D {case['dim']:,}, "
            f"K {case['classes']}",
            ms(case["seconds"]["glocal"]["median"]),
            ms(case["seconds"]["one by one"]["median"]),
            times(case["times_faster"]),
            f"best top-1 {case['best_top1']['glocal']:.3f}, {case['best_top1']['one by one']:.3f}",
        )
        for case in measured["linear"]
    ]
    return (
        "## Evaluation\n\n"
        "kNN beside scikit-learn's with the same metric and weights; the grid of linear probes beside the same"
        " settings trained one by one, on the same batches in the same order.\n\n"
        + table(("", "Glocal, ms", "peer, ms", "faster", "agreement"), [*knn, *linear])
    )


def search(measured: dict[str, Any], figures: Path, suffix: str) -> str:
    found, made = measured["search"], measured["index"]
    rows = [
        (f"search, N {found['images']:,}, D {found['dim']}, {found['queries']:,} queries, k {found['k']}",
         f"{ms(found['seconds']['glocal']['median'])} ms", f"{ms(found['seconds']['bare']['median'])} ms",
         f"{times(found['times_bare'])} the time"),
        (f"index of {made['images']:,} photographs", f"{number(made['seconds']['index']['median'])} s",
         f"{number(made['seconds']['embed']['median'])} s", f"{number(made['of_embed'])} of `embed`'s rate"),
        ("the same again, nothing new", f"{number(made['seconds']['again']['median'])} s", "",
         f"{number(made['again'])} of the time"),
    ]  # fmt: skip
    return (
        "## The index\n\nA search in an index on disk, beside the product of the same matrices in single precision and"
        " `topk`; making an index, beside `glocal embed`.\n\n" + table(("", "Glocal", "beside", ""), rows)
    )


def masks(measured: dict[str, Any], figures: Path, suffix: str) -> str:
    rows = [
        (
            f"{short(case)}, B {case['batch']}",
            *(ms(case["seconds"][name]["median"]) for name in ("plain", "scores", "pruned")),
            *(times(case["times_plain"][name]) for name in ("scores", "pruned")),
        )
        for case in measured["cases"]
    ]
    return (
        "## Masks\n\nA training step of `glocal adapt` (backbone, heads, optimiser; random input) with a score"
        " of each weight, and with four fifths of the weights left out, beside one in which all weights train.\n\n"
        + table(("", "plain, ms", "scores, ms", "pruned, ms", "scores", "pruned"), rows)
    )


def growth(measured: dict[str, Any], figures: Path, suffix: str) -> str:
    figure_growth(measured, figures / f"growth{suffix}.svg")
    parts = []
    for name, word in (("batch", "Batch"), ("cells", "Side of the map"), ("views", "Views")):
        rows = measured[f"loss_by_{name}"]
        parts.append(
            table(
                (word, *(row[name] for row in rows)),
                [
                    ("loss, ms", *(ms(row["seconds"]["median"]) for row in rows)),
                    ("peak, MiB", *(mib(row["peak_bytes"]) for row in rows)),
                    ("inputs, MiB", *(mib(row["input_bytes"]) for row in rows)),
                ],
            )
        )
    workers, processes = measured["loader_by_workers"], measured["training_by_processes"]
    parts.append(
        table(
            ("Loader workers", *(row["workers"] for row in workers)),
            [("images/s", *(number(row["images_per_second"]["median"]) for row in workers))],
        )
    )
    parts.append(
        table(
            ("Processes (same joined batch and threads)", *(row["processes"] for row in processes)),
            [("images/s", *(number(row["images_per_second"]) for row in processes))],
        )
    )
    return (
        "## Cost against growth\n\nGlocal's VICRegL loss, forward and backward (else B 32, 7×7 cells, two views, local"
        " 512-d, global 2048-d); the loader at 96 px; VICReg on a ResNet-18 at 96 px.\n\n"
        + "\n\n".join(parts)
        + f"\n\n![Cost against growth](figures/growth{suffix}.svg)"
    )


def quality(measured: dict[str, Any], figures: Path, suffix: str) -> str:
    mark, rows = measured["mark"], []
    for part, said in (("curves", "seeds 0, 1, 2"), ("pilot", "seed 100, by which the best were chosen")):
        for name, curves in measured[part].items():
            spent = [reached(curve, mark) for curve in curves]
            minutes = ", ".join(number(each / 60) if math.isfinite(each) else "never" for each in spent)
            ends = ", ".join(f"{curve[-1]['top1']:.3f}" for curve in curves)
            rows.append((f"{name}, {said}", minutes, ends))
    figure_quality(measured, figures / f"quality{suffix}.svg")
    return (
        "## Time to quality\n\n"
        f"Processor minutes on one core until a linear probe on CIFAR-10 says {mark:g}, preparing and loading included,"
        f" probing not: a small ResNet at 32 px, {measured['steps']:,} steps of {measured['batch']}. Glocal decides all"
        " else by itself; lightly's pieces are put together as in its benchmark on CIFAR-10.\n\n"
        + table(("", "minutes to the mark", "top-1 at the end"), rows)
        + f"\n\n![Linear accuracy over processor time](figures/quality{suffix}.svg)"
    )


def packing(measured: dict[str, Any], figures: Path, suffix: str) -> str:
    rates, seconds = measured["images_per_second"], measured["attention"]
    rows = [(name, number(rate), times(rates["packed"] / rate)) for name, rate in rates.items()]
    ways = ", ".join(f"{name} {times(value / seconds['by length'])}" for name, value in seconds.items())
    return (
        "## Photographs of many shapes\n\n"
        f"navit_tiny on photographs in their own shapes, sides of {measured['sides'][0]} to {measured['sides'][1]} px,"
        f" {measured['mean_tokens']:.0f} patches in the mean and {measured['longest']} at most, forward and backward:"
        f" packed into sequences of {measured['tokens']:,}; padded to the longest, as many places; resized to squares"
        " of as many patches in the mean.\n\n"
        f"{table(('', 'images/s', 'packed is'), rows)}\n\n"
        f"Attention within each photograph, seconds beside those of one call for all of a length: {ways}."
    )


def backbones(measured: dict[str, Any], figures: Path, suffix: str) -> str:
    tokens, curve = measured["tokens"], measured["curve"]
    seconds = {name: each["median"] for name, each in tokens["seconds"].items()}
    grown = [
        (
            what,
            *(ms(seconds[f"{name} {tokens[count]}"]) for count in ("few", "many")),
            times(tokens["times_more"][name]),
        )
        for name, what in (("xca", "cross-covariance attention (XCiT)"), ("attention", "attention"))
    ]
    trained = [
        (
            case["patch"],
            *(ms(case["seconds"][arm]["median"]) for arm in ("flexible", "fixed")),
            times(case["times_fixed"]),
        )
        for case in measured["steps"]
    ]
    speeds = [
        (patch, (curve["image_size"] // int(patch)) ** 2, number(rate), times(curve["times_finest"][patch]))
        for patch, rate in curve["images_per_second"].items()
    ]
    return "\n\n".join(
        [
            "## Backbones",
            f"One layer of {tokens['width']} channels, forward, on so many tokens.",
            table(("", f"{tokens['few']:,}, ms", f"{tokens['many']:,}, ms", "grows"), grown),
            "A training step (forward, backward, AdamW) of `flexivit_tiny`, the resizing of its kernel and positions"
            " included, and of the ordinary vision transformer of that patch, which it is exported as.",
            table(("patch, px", "FlexiViT, ms", "fixed, ms", "times the fixed one's"), trained),
            f"One set of weights of `flexivit_tiny` at each patch, forward, images of {curve['image_size']} px.",
            table(("patch, px", "tokens", "images/s", "times the finest's"), speeds),
        ]
    )


def sequences(measured: dict[str, Any], figures: Path, suffix: str) -> str:
    loader = measured["loader"]
    rates = [number(loader["frames"] / loader["seconds"][name]["median"]) for name in ("images", "clips")]
    rows = [
        (
            f"{case['frames']:,} frames, {case['dim']} dimensions, {case['neighbours']} neighbours",
            *(ms(case["seconds"][name]["median"]) for name in ("whole", "sparse", "dense")),
            times(case["times_faster"]),
            f"{case['difference']:.0e}",
        )
        for case in measured["phases"]
    ]
    return (
        f"## Videos\n\nOne view of {loader['image_size']} px of each photograph, on one thread, without workers:"
        f" {rates[0]} a second as images, {rates[1]} as frames of videos, two to a sample:"
        f" {number(loader['of_images'])} of the rate.\n\n"
        "The phases of two hours of video, a frame of each marked: all of it; its sparse system alone; the same system"
        " as a full matrix, and the greatest difference of a probability.\n\n"
        + table(("", "whole, ms", "sparse, ms", "dense, ms", "faster", "difference"), rows)
    )


def generation(measured: dict[str, Any], figures: Path, suffix: str) -> str:
    step, distances = measured["step"], measured["distances"]
    rows = [
        (f"a step of guided flow, {step['backbone']}@{step['image_size']}, B {step['batch']}",
         f"{ms(step['seconds']['flow']['median'])} ms", f"{ms(step['seconds']['network']['median'])} ms",
         times(step["times_network"])),
        *(
            (f"features of twice {distances['images']:,} images, {name}",
             f"{number(distances['seconds'][name]['median'])} s",
             f"{number(distances['seconds']['features']['median'])} s", times(value))
            for name, value in distances["times_features"].items()
        ),
    ]  # fmt: skip
    return (
        "## Images that are made\n\nA training step (forward, backward, AdamW; of the flow, its clusters and moving"
        " average, too) beside one of the bare network; what is made of features, by"
        f" {distances['backbone']}@{distances['image_size']}, beside computing them.\n\n"
        + table(("", "Glocal", "beside", "times"), rows)
    )


SECTIONS: dict[str, Callable[[dict[str, Any], Path, str], str]] = {
    "losses": losses,
    "pretrain": pretrain,
    "quality": quality,
    "profile": profile,
    "loader": loader,
    "evaluation": evaluation,
    "search": search,
    "masks": masks,
    "growth": growth,
    "packing": packing,
    "backbones": backbones,
    "sequences": sequences,
    "generation": generation,
}

if __name__ == "__main__":
    print(write_page(), reliability.write_page(), sep="\n")
