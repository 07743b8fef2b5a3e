"""The page as a whole: well-formed, self-contained, complete, and there whatever is missing."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from glocal.data import Groups
from glocal.data.arrays import ArraySource
from glocal.errors import UsageError
from glocal.evaluation.groups import PerImage, scores_by_group
from glocal.report import write_report
from glocal.run import Run

SECTIONS = ["scores", "neighbours", "maps", "matches", "curves", "spectrum", "run"]
VOID = {"meta", "img", "br", "hr", "link", "input"}


class Checker(HTMLParser):
    """Fails on unbalanced tags; keeps the attributes that load something, the sections and the text."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.loads: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        found = dict(attrs)
        assert len(found) == len(attrs), f"an attribute twice in <{tag}>"
        self.loads += [found[name] for name in ("src", "href", "srcset", "data") if name in found]
        self.ids += [found["id"]] if "id" in found and tag == "section" else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> in the wrong place"

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("style", "script"):
            self.text += data


def check(path: Path, sections: list[str] = SECTIONS) -> Checker:
    page = path.read_text(encoding="utf-8")
    checker = Checker()
    checker.feed(page)
    checker.close()
    assert checker.open == []
    assert checker.ids == sections
    assert "script" not in checker.tags
    assert "link" not in checker.tags
    assert all(load.startswith(("data:image/", "#")) for load in checker.loads)
    assert not re.search(r"url\((?!#)|@import|http-equiv", page)
    assert "nan" not in re.findall(r"[a-zA-Z]+", " ".join(re.findall(r'(?:d|x|y|cx|cy|x1|y1|width)="([^"]*)"', page)))
    assert len(page) < 3_000_000
    return checker


def squares(count: int, seed: int = 0) -> np.ndarray:
    images = np.random.default_rng(seed).integers(0, 255, (count, 8, 8, 3), dtype=np.uint8)
    return images.repeat(12, axis=1).repeat(12, axis=2)


def test_complete(make_run):
    run = make_run()
    path = write_report(run)
    assert path == run / "report.html"
    page = check(path)
    # 8 photographs and their maps by three encoders, 6 queries with three rows of five; 9 test photographs in all
    assert page.tags.count("img") == 8 * (1 + 3) + 6 * (1 + 3 * 5)
    assert page.tags.count("image") == 6 * 2
    assert 6 * 5 < page.tags.count("line") <= 6 * 15
    # loss, two terms, kNN, two ranks, learning rate, speed; two spectra of two networks
    assert page.tags.count("polyline") == 8 + 4
    words = " ".join(page.text.split())
    assert (
        "The encoder is better than random initialisation in all 2 tasks and than raw pixels in all 2 tasks." in words
    )
    assert "against random initialisation against raw pixels" in words
    assert "Correspondence ✓ +20.0 ✓ +30.0 Nearest neighbours ✓ +20.0 ✓ +25.0" in words
    assert "accuracy 60.0% 55.1–64.7 40.0% 35.3–44.9 35.0% 30.5–39.8" in words  # Wilson, 400 images
    html = path.read_text(encoding="utf-8")
    assert 'style="width:60.0%;background:var(--encoder)"' in html
    assert 'style="width:20.0%;background:var(--pixels)"' in html
    assert words.count("Start: random initialisation") == 2 + 6 + 2 + 2  # legend, table, queries, maps, spectra
    assert "arXiv:2210.01571" in words
    assert "1 file was unreadable and skipped" in words
    assert "40 steps, 20 s" in words
    assert "trained on 24 images" in words
    assert "below" not in words
    assert not list(run.glob("*.partial"))


def test_what_is_given_for_each_class_and_what_it_started_from(make_run):
    run = make_run(encoder=False)
    scores = json.loads((run / "evaluation.json").read_text())
    scores |= {"segment": {"miou": 0.5, "iou": {"<script>": 0.75, "sea": None}}}
    scores["meta"] |= {"start": "weights of <b>&"}
    (run / "evaluation.json").write_text(json.dumps(scores))
    page = check(write_report(run))
    words = " ".join(page.text.split())
    assert page.tags.count("details") == 3
    assert "Segmentation: IoU of each class" in words
    assert "<script> 75.0% – –" in words
    assert "sea – – –" in words
    assert "better than weights of <b>& in all 2 tasks" in words
    assert "before training: weights of <b>&" in words


def test_repeatable_and_leaves_the_generators_alone(make_run, tmp_path):
    run = make_run()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = write_report(run, out=tmp_path / "a" / "one.html").read_bytes()
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(6)
    assert write_report(run, out=tmp_path / "two.html").read_bytes() == first


def test_no_labels_no_baselines_given_source(make_run):
    run = make_run(labels=False, data="/nowhere")
    page = check(write_report(run, source=ArraySource(squares(10)), baselines=False))
    assert page.tags.count("img") == 8 * 2 + 6 * 6
    assert "green frame" not in page.text
    assert "green frame" in check(write_report(run, source=ArraySource(squares(10), labels=[0, 1] * 5))).text


def test_three_images(make_run):
    page = check(write_report(make_run(), source=squares(3), baselines=False))
    assert page.tags.count("img") == 3 * 2 + 3 * (1 + 2)


def test_one_image(make_run):
    assert "fewer than two readable images" in check(write_report(make_run(), source=squares(1))).text


def test_what_inspire_saw_is_shown_from_then_on(make_run):
    run = Run(make_run())
    Image.fromarray(squares(1)[0]).save(run.seen_file)
    sections = [*SECTIONS[: SECTIONS.index("matches")], "seen", *SECTIONS[SECTIONS.index("matches") :]]
    page = check(write_report(run.path, source=squares(3), baselines=False), sections)
    assert "What the encoder sees" in page.text


def test_unreadable_images_are_passed_over(make_run, tmp_path):
    folder = tmp_path / "mixed"
    folder.mkdir()
    for k, pixels in enumerate(squares(4)):
        Image.fromarray(pixels).save(folder / f"{k}.png")
    broken = (folder / "0.png").read_bytes()
    (folder / "0.png").write_bytes(broken[: len(broken) // 2])
    page = check(write_report(make_run(), source=str(folder), baselines=False))
    assert page.tags.count("img") == 3 * 2 + 3 * (1 + 2)


def test_only_a_config(tmp_path):
    (tmp_path / "config.yaml").write_text("method: nobody/knows\n")
    page = check(write_report(tmp_path))
    assert "nobody/knows" in page.text
    assert "nothing can be said yet" in page.text
    assert "no encoder yet" in page.text
    assert "below" not in page.text


def test_images_gone(make_run):
    run = make_run(data="/nowhere/at/all")
    assert "could not be opened" in check(write_report(run)).text


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_few_metrics(make_run, steps):
    check(write_report(make_run(steps=steps, encoder=False)))


def test_single_epoch_counts_steps(make_run):
    assert "Per step." in check(write_report(make_run(steps=3, encoder=False))).text
    assert "Per epoch." in check(write_report(make_run("longer", steps=40, encoder=False))).text


def test_user_text_is_escaped(make_run, tmp_path):
    folder = tmp_path / "a<b>&\"c'"
    for label in ("<script>x", "y&z"):
        (folder / label).mkdir(parents=True)
        for k, pixels in enumerate(squares(3, seed=len(label))):
            Image.fromarray(pixels).save(folder / label / f'<img src=x>&"{k}.png')
    run = make_run("run<i>&", data=folder)
    page = check(write_report(run))
    assert "<script>x" in page.text
    assert "y&z" in page.text
    assert "run<i>&" in page.text
    assert "bad/<b>&.jpg" in page.text
    assert '<img src=x>&"' in page.text
    assert not {"script", "i2"} & set(page.tags)


def test_transformers_too(make_run, photos):
    from glocal.backbones import build_backbone

    encoder = build_backbone("test_vit", image_size=64)
    after = SECTIONS.index("maps") + 1
    sections = [*SECTIONS[:after], "attention", *SECTIONS[after:]]
    page = check(write_report(make_run(encoder=False), encoder=encoder, baselines=False, source=photos), sections)
    assert page.tags.count("image") == 6 * 2
    assert "lit by the attention that the class token gives" in " ".join(page.text.split())


def test_broken_weights_are_diagnosed(make_run, photos):
    from glocal.backbones import build_backbone

    encoder = build_backbone("test_resnet", image_size=64)
    with torch.no_grad():
        next(encoder.parameters()).fill_(float("nan"))
    page = check(write_report(make_run(encoder=False, steps=0), encoder=encoder, source=photos))
    assert "Not finite" in page.text
    assert "nothing to draw" in page.text


def test_mistakes_are_said(make_run, tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        write_report(tmp_path / "nothing")
    with pytest.raises(UsageError, match="is not a run"):
        write_report(tmp_path)
    run = make_run(encoder=False)
    (run / "evaluation.json").write_text('{"knn": ')
    with pytest.raises(UsageError, match=r"evaluation\.json is not valid JSON \(.* line 1"):
        write_report(run)
    shutil.rmtree(run)
    with pytest.raises(UsageError):
        write_report(make_run(), source="/nowhere/at/all")


def test_a_source_that_config_yaml_names_is_imported_only_with_consent(tmp_path, module_here):
    file = module_here(
        "from pathlib import Path\nfrom glocal.data import ArraySource\nimport numpy as np\n\n"
        "Path('ran').touch()\nIMAGES = ArraySource(np.zeros((4, 32, 32, 3), np.uint8))\n"
    )
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("method: vicreg\ndata: mine:IMAGES\n")
    with pytest.raises(UsageError, match="would run code that is not registered: mine:IMAGES"):
        write_report(tmp_path / "run")
    assert not (file.parent / "ran").exists()
    assert "4 images" in write_report(tmp_path / "run", trust_code=True).read_text()
    assert (file.parent / "ran").exists()


def test_what_was_measured_since_is_shown_with_its_images(make_run):
    run = make_run(encoder=False)
    meta = {"n_test": 50, "split": "test"}
    Run(run).add_scores("other/<b>", {"linear": {"top1": 0.5}, "meta": meta, "pixels": {"linear": {"top1": 0.25}}})
    Run(run).add_scores("other/<b>", {"knn": {"top1": 0.75}, "meta": meta})
    words = " ".join(check(write_report(run)).text.split())
    section = words.partition("Measured since on other/<b> 50 images (test)")[2]
    assert "Raw pixels Linear probe accuracy 50.0% 36.6–63.4 25.0%" in section
    assert "Nearest neighbours accuracy 75.0%" in section
    assert "accuracy 60.0% 55.1–64.7 40.0%" in words  # what it was scored on when training ended stays


def test_scores_by_group_are_shown_with_the_worst_and_what_chance_gives(make_run):
    """A group that is too small without a verdict, and a kind of groups of which no two are large enough."""
    right = np.arange(219) % 10 < np.repeat([9, 0, 6], [100, 19, 100])  # of camera c, 60%
    each = PerImage.mean("top1", np.arange(219), right, np.arange(219)[:, None] % 4)
    source = ArraySource(np.zeros((219, 8, 8, 3), np.uint8))
    source.groups = {
        "<camera>": Groups([*"abc"], np.repeat([0, 1, 2], [100, 19, 100])),
        "place": Groups(["here"], np.zeros(219, int)),
    }
    found = {"top1": float(right.mean())} | scores_by_group(each, source, [3], seed=0, higher_is_better=True)
    run = make_run(encoder=False)
    meta = {"n_test": 219, "split": "test"}
    Run(run).add_scores("there", {"linear": found, "meta": meta, "pixels": {"linear": {"top1": 0.25}, "meta": meta}})
    words = " ".join(check(write_report(run)).text.split())
    section = words.partition("Measured since on there")[2].partition("Linear probe: accuracy by <camera>")[2]
    interval = lambda pair: f"{100 * pair[0]:.1f}–{100 * pair[1]:.1f}"
    by = found["groups"]["<camera>"]
    assert f"a (100 images) 90.0% {interval(by['groups']['a']['interval'])} –" in section
    assert "b (19 images, too few for a verdict) 0.0% –" in section
    assert f"worst group c – gap 30.0% {interval(by['gap_interval'])} –" in section
    assert (
        f"gap that random groups exceed in 5% of draws {100 * by['chance']:.1f}% – gap is more than chance gives yes –"
        in section
    )
    assert f"ratio of the lower to the higher 66.7% {interval(by['ratio_interval'])} –" in section
    place, _, harmful = section.partition("accuracy by place")[2].partition(
        "images with a label of --harmful by <camera>"
    )
    assert "no two groups of 20 images: nothing is compared" in place
    assert "a (100 images) 25.0%" in harmful
    assert "gap is more than chance gives no –" in harmful
