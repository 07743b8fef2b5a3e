"""Every page and figure from the plan and the stored results; the same again while nothing changes.

docs/replications_plan.md, docs/replications.md, docs/methods_table.md, docs/choose.md, and the results in
docs/co_ssl.md and docs/finetune.md.
"""

from __future__ import annotations

import statistics
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from glocal.methods import method_class
from replications.cells import stored
from replications.choose import choose_page
from replications.claims import CLAIMS, HOURS
from replications.claims.arms import ROBUST
from replications.claims.co_ssl import AGAINST_BYOL
from replications.claims.extended import FEW, SHOTS, TRAINS
from replications.claims.learns import METHODS
from replications.claims.pilots import PILOTS
from replications.evidence import checks, method_code_lines
from replications.figures import draw_claim, robustness_curve
from replications.judge import Judged, judge, results, spread
from replications.plan import Claim
from replications.queue import cells_of
from replications.rule import FEWEST, MOST, seeds_needed
from replications.worlds import WORLDS, World

DOCS = Path(__file__).parent.parent / "docs"
MADE = "This page is made by `python -m replications pages`."
RULE = f"""## The rule

Written before any run. Differences are paired by seed. A claim has as many seeds as give a paired t-test at 95% a power
of 80% to see the smallest difference worth having, in general 1 point, by the spread of the pilots, from {FEWEST} to
{MOST}, or as many as there is time for: then a difference that is not seen is called undecided. All statements of a
paper are tested together (Holm).

- *premise not met*: what a statement rests on (the baseline learns, large crops do harm) is not shown (mean above 0,
  p < .05); another regime is sought, at most twice, each told.
- *too small to matter*: the 95% interval lies within the smallest difference on both sides of 0.
- *reproduced*, *not reproduced*: the difference is not 0 (p < .05 after Holm), as claimed or the other way. Where the
  claim is "no worse than", or by how much more, the difference is compared with the bound that stands beside it.
- *undecided, would need N seeds*: for the same power by the spread that was found.

Where a claim is of cost, an arm is trained for as long as the other takes, by one ratio measured side by side."""


def write_pages() -> None:
    judged = judge(CLAIMS)
    write("replications_plan.md", plan_page())
    write("replications.md", claims_page(judged))
    write("methods_table.md", methods_page(judged))
    write("choose.md", choose_page(DOCS))
    section = claim_section(AGAINST_BYOL, judged[AGAINST_BYOL.name], heading=False)
    insert("co_ssl.md", "\n\n".join([section, *robustness_figure()]))
    insert("finetune.md", few_labels_table())


def write(page: str, text: str) -> None:
    (DOCS / page).write_text(text.rstrip() + "\n")


def insert(page: str, text: str) -> None:
    """Between the two comments of a page that is written by hand."""
    path, (begin, end) = DOCS / page, ("<!-- results -->", "<!-- end of results -->")
    before, _, rest = path.read_text().partition(begin)
    path.write_text(f"{before}{begin}\n{text}\n{end}{rest.partition(end)[2]}")


def wrap(text: str) -> str:
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def plan_page() -> str:
    """Claims × arms × seeds × minutes, in order of value; a cell that several claims share counts for the first."""
    counted: set[str] = set()
    rows, total = [], 0.0
    for claim in CLAIMS:
        new = [cell for cell in cells_of(claim) if str(cell) not in counted and cell.takes_time]
        new = [cell for cell in new if not (claim.name == "collapse" and stored(cell))]
        counted |= {str(cell) for cell in new}
        hours = len(new) * claim.minutes / 60
        total += hours
        arms = ", ".join(arm.name for arm in claim.arms)
        rows.append([claim.name, claim.world, arms, len(claim.seeds), f"{claim.minutes:g}", len(new), f"{hours:.1f}"])
    statements = [
        [
            claim.name,
            s.text,
            s.score,
            f"{s.least:g}",
            f"{s.margin:g}" if s.margin else "",
            s.premise.text if s.premise else "",
        ]
        for claim in CLAIMS
        for s in claim.statements
    ]
    missing = [f"- {claim.name}: {claim.missing}" for claim in CLAIMS if claim.missing]
    return "\n\n".join(
        [
            "# The plan of the replications",
            f"Claims in order of value, written before the first of their runs. {MADE}",
            table(["claim", "world", "arms", "seeds", "minutes a cell", "cells", "hours"], rows),
            f"Processor hours of one thread in all: {total:.1f}, of {HOURS} (pilots and untrained encoders apart).",
            RULE,
            "## What is judged",
            table(["claim", "statement", "score", "smallest difference", "margin", "premise"], statements),
            "## What does not fit",
            "\n".join(missing),
            "## The worlds",
            *(world_section(world) for world in WORLDS.values()),
            "## Pilots",
            "Trials on seeds from 100 on, which no claim uses, by which networks, steps, batches and seeds are chosen.",
            *(pilot_section(claim) for claim in PILOTS),
        ]
    )


def world_section(world: World) -> str:
    options = ", ".join(f"{key} {value}" for key, value in world.options.items())
    sets = " + ".join(world.sets)
    scores = ", ".join(world.usual)
    limit = f", at most {world.limit:,} training and as many test images looked at" if world.limit else ""
    return wrap(f"*{world.name}*: {'; '.join(part for part in (sets, options, scores) if part)}{limit}.")


def pilot_section(claim: Claim) -> str:
    """Scores by arm; where several seeds were tried, how many a claim needs by their spread."""
    found, usual = results(claim), WORLDS[claim.world].usual
    rows = [[arm, *(spread([s[key] for s in seeds.values()]) for key in usual)] for arm, seeds in found.items()]
    parts = [f"{claim.name}:", table(["arm", *usual], rows)]
    measured = [(j.statement, j.found.deviation) for j in judge([claim])[claim.name] if j.found]
    rows = [[s.text, s.score, f"{sd:.3f}", str(seeds_needed(sd, s.least))] for s, sd in measured]
    return "\n\n".join([*parts, table(["difference", "score", "deviation", "seeds"], rows)] if rows else parts)


def claims_page(judged: Mapping[str, list[Judged]]) -> str:
    head = (
        "Published claims tried at small scale. What is compared, the rule, the worlds and what was left out stand in"
        f" [the plan](replications_plan.md), written before the runs. {MADE}"
    )
    others = [claim for claim in CLAIMS if not claim.name.startswith("learns-")]
    summary = [
        [claim.name, each.statement.text, each.shown, each.verdict] for claim in others for each in judged[claim.name]
    ]
    return "\n\n".join(
        [
            "# Replications",
            wrap(head),
            table(["claim", "statement", "difference, 95% interval", "verdict"], summary),
            "That every method learns: [the evidence for each method](methods_table.md).",
            *(claim_section(claim, judged[claim.name]) for claim in others),
        ]
    )


def claim_section(claim: Claim, judged: Sequence[Judged], *, heading: bool = True) -> str:
    """What was claimed, the scores by arm, each statement with its difference and verdict."""
    found = results(claim)
    keys = columns(claim, found)
    rows = [[arm, *(spread([s[k] for s in seeds.values() if k in s]) for k in keys)] for arm, seeds in found.items()]
    parts = [f"## {claim.paper}: {claim.name}"] if heading else []
    parts += [
        " ".join(part for part in (claim.text, f"Published: {claim.published}" if claim.published else "") if part)
    ]
    if any(found.values()):
        parts += [table(["arm", *keys], rows)]
    if draw_claim(claim, found, judged, DOCS / "figures" / f"claim-{claim.name}.svg"):
        parts += [f"![Every seed of every arm](figures/claim-{claim.name}.svg)"]
    verdicts = [[j.statement.text, j.shown, shown_p(j.p), j.verdict] for j in judged]
    parts += [table(["statement", "difference, 95% interval", "p (Holm)", "verdict"], verdicts)]
    return "\n\n".join([*parts, *([claim.missing] if claim.missing else [])])


def columns(claim: Claim, found: Mapping[str, Mapping[int, Mapping[str, float]]]) -> list[str]:
    """The world's scores, those that are judged, and others by which arms can be compared.

    A cell may have more: scores of other claims that it serves.
    """
    usual = WORLDS[claim.world].usual
    have = Counter(key for seeds in found.values() for key in {key for scores in seeds.values() for key in scores})
    decide = {key for each in claim.statements for key in each.score.split(" - ")}
    asked = [key for arm in claim.arms for key in arm.scores]
    order = dict.fromkeys([*usual, *asked, *sorted(have)])
    return [key for key in order if key in usual or key in decide or have[key] > 1]


def few_labels_table() -> str:
    """Accuracy by the number of labelled images, and by what learns of the encoder."""
    found = results(FEW)
    if not any(found.values()):
        return "Not run yet."
    rows = [
        [10 * shots, *(spread([s["accuracy"] for s in found.get(f"{train}-{shots}", {}).values()]) for train in TRAINS)]
        for shots in SHOTS
    ]
    return table(["labelled images", "logistic regression", *(f"`{train}`" for train in TRAINS[1:])], rows)


def shown_p(p: float | None) -> str:
    return "" if p is None else "< .001" if p < 0.001 else f"{p:.3f}"


def methods_page(judged: Mapping[str, list[Judged]]) -> str:
    """A row for each method: what its loss is compared with, what it learns, what it costs."""
    head = (
        "*Oracle*: what the value and gradient of its loss are compared with, in the"
        " test behind the link. *1 = 2*: loss, gradients and buffers on two processes are those of one with the joined"
        " batch. *kNN, linear*: accuracy on CIFAR-10 by its recipe for small data, mean ± deviation (seeds), and how"
        " much more than the weights it began with, with the verdict of [the rule](replications_plan.md#the-rule)."
        " Methods that need an option, such as a teacher, are in no such run."
        " *Lines*: of its file, without imports and documentation. *Cost*: processor time a step over VICReg's. What"
        f" the methods are, and when to choose which: [methods](methods.md). {MADE}"
    )
    parity, distributed = checks("parity"), checks("distributed")
    costs = {name: cost(name) for name in METHODS}
    rows = []
    for name in [*METHODS, *(name for name in parity if name not in METHODS)]:
        learnt = ["", "needs an option" if method_class(name).needs else "claims of its own, a small replication"] * 2
        if name in METHODS:
            claim = next(claim for claim in CLAIMS if claim.name == f"learns-{name}")
            found, by_score = results(claim)[name], {j.statement.score: j for j in judged[claim.name]}
            each = [(spread([s[key] for s in found.values()]), gain(by_score[key])) for key in ("knn", "linear")]
            learnt = [cell for pair in each for cell in pair]
        rows.append(
            [
                name,
                ", ".join(dict.fromkeys(f"[{check.oracle}](../{check.path})" for check in parity[name])),
                ", ".join(dict.fromkeys(f"[1 = 2](../{check.path})" for check in distributed[name])),
                *learnt,
                method_code_lines(name),
                f"{costs[name] / costs['vicreg']:.1f}" if costs.get(name) and costs["vicreg"] else "",
            ]
        )
    columns = ["method", "oracle", "processes", "kNN", "over its start", "linear", "over its start", "lines", "cost"]
    return f"# The evidence for each method\n\n{wrap(head)}\n\n{table(columns, rows)}"


def gain(judged: Judged) -> str:
    return f"{judged.shown}, {judged.verdict}" if judged.found else judged.verdict


def cost(name: str) -> float | None:
    """Processor seconds a step, the median over the runs that nothing interrupted."""
    claim = next(claim for claim in CLAIMS if claim.name == f"learns-{name}")
    kept = [stored(cell) for cell in cells_of(claim) if cell.arm.name == name]
    spent = [r["train_cpu_seconds"] / r["last"]["step"] for r in kept if r and r["train_cpu_seconds"]]
    return statistics.median(spent) if spent else None


def robustness_figure() -> list[str]:
    """Accuracy against the severity of corruptions, means over seeds; nothing before there are any."""
    means = {}
    for arm, seeds in results(AGAINST_BYOL).items():
        if each := [scores for scores in seeds.values() if "corrupted" in scores]:
            mean = {key: statistics.fmean(scores[key] for scores in each) for key in ROBUST}
            drop = {"relative_drop": 1 - mean["corrupted"] / mean["clean"]}
            means[arm] = {
                "clean": mean["clean"],
                **{f"severity_{k}": mean[f"severity {k}"] for k in (1, 3, 5)},
                **drop,
            }
    if not means:
        return []
    robustness_curve(means, DOCS / "figures" / "co_ssl_robustness.svg")
    return ["![Accuracy of the linear probe under ever stronger corruptions](figures/co_ssl_robustness.svg)"]
