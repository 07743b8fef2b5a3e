"""The command line: each mistake is one clear line and exit code 2; each command's help has an example."""

from __future__ import annotations

import functools
import inspect
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

import glocal
from glocal.cli import main
from glocal.commands import COMMANDS
from glocal.errors import UsageError
from glocal.methods import method_class, method_names, method_options
from glocal.training.stopping import Interrupted, TrainingStopped


def stderr_of(argv: list[str], capsys) -> tuple[int, str]:
    with pytest.raises(SystemExit) as stop:
        main(argv)
    return stop.value.code, capsys.readouterr().err


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with everything one can get wrong in it."""
    root = tmp_path_factory.mktemp("place")
    (root / "empty").mkdir()
    (root / "notes").mkdir()
    (root / "notes" / "a.docx").write_text("no image")
    (root / "broken").mkdir()
    for k in range(3):
        (root / "broken" / f"{k}.jpg").write_bytes(b"\xff\xd8\xff nothing more")
    (root / "few").mkdir()
    rng = np.random.default_rng(0)
    for k in range(6):
        Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(root / "few" / f"{k}.png")
    (root / "list.txt").write_text("few/0.png\nfew/gone.png\n")
    (root / "single.png").write_bytes((root / "few" / "0.png").read_bytes())
    (root / "weights.pth").write_bytes(b"not weights")
    (root / "bad.yaml").write_text("method: [vicreg\n")
    (root / "unknown.yaml").write_text("data: few\nbach_size: 4\n")
    (root / "words.yaml").write_text("data: few\nbatch_size: four\n")
    (root / "list.yaml").write_text("- data: few\n")
    (root / "own.yaml").write_text("data: few\nmethod: absent:Method\n")
    (root / "net.yaml").write_text("data: few\nbackbone: absent:net\ntrust_code: true\n")
    (root / "run").mkdir()
    (root / "run" / "config.yaml").write_text("method: vicreg\n")
    (root / "run" / "checkpoints").mkdir()
    (root / "run" / "checkpoints" / "last.pt").write_bytes(b"")
    (root / "notrun").mkdir()
    return root


TINY = ["--backbone", "resnet18", "--image-size", "32", "--batch-size", "4", "--max-steps", "1", "--report", "false"]
# arguments ({} is the folder above) and what the line must say
MISTAKES = [
    ("pretrian {}/few", "pretrain"),
    ("pretrain", "no data"),
    ("pretrain {}/fwe", "few"),
    ("pretrain {}/empty", "empty"),
    ("pretrain {}/notes", "docx"),
    ("pretrain {}/broken", "usable"),
    ("pretrain {}/single.png", "single image"),
    ("pretrain {}/list.txt", "gone.png"),
    ("pretrain torchvision:CIFAR", "CIFAR10"),
    ("pretrain parts:sise=32", "size"),
    ("pretrain {}/few --method vicregel", "vicregl"),
    ("pretrain {}/few --backbone resnet19", "resnet18"),
    ("pretrain {}/few --bach-size 4", "no option '--bach-size' (did you mean --batch-size?)"),
    ("pretrain {}/few --bach_size=4", "no option '--bach_size' (did you mean --batch-size?)"),
    ("pretrain {}/few --epoch 3", "no option '--epoch' (did you mean --epochs?)"),
    ("pretrain {}/few --method dino --output 64", "no option '--output' (did you mean --outputs?)"),
    ("pretrain {}/few --method vicreg --alpha .5", "--alpha is an option of --method vicregl"),
    ("pretrain {}/few --trust .002", "--trust is now --trust-coefficient"),
    ("pretrain {}/few -q", "no option '-q'"),
    ("pretrain {}/few --batch-size four", "--batch-size 'four' is not a whole number"),
    ("pretrain {}/few --batch-size 4.5", "--batch-size '4.5' is not a whole number"),
    ("pretrain {}/few --batch-size", "a value for --batch-size"),
    ("pretrain {}/few --batch-size --quiet", "a value for --batch-size"),
    ("pretrain {}/few --seed 1 --seed 2", "--seed"),
    ("pretrain {}/few --quiet=perhaps", "perhaps"),
    ("pretrain {}/few --scale .5", "--scale"),
    ("pretrain {}/few --scale .5,.7,.9", "--scale"),
    ("pretrain {}/few --projector 8,8.5", "--projector"),
    ("pretrain {}/few --matches 20,4,3", "--matches '20,4,3' is not"),
    ("pretrain {}/few --matches some", "--matches"),
    ("pretrain {}/few --slot-order distanse", "distance"),
    ("pretrain {}/few --batch-size 0", "at least"),
    ("pretrain {}/few --batch-size 64", "6 images"),
    ("pretrain {}/few --epochs -1", "at least"),
    ("pretrain {}/few --image-size 2", "at least"),
    ("pretrain {}/few --report-images 1", "at least"),
    ("pretrain {}/few --lr nan", "--lr nan"),
    ("pretrain {}/few --lr -1", "at least 0"),
    ("pretrain {}/few --precision fp8", "precision"),
    ("pretrain {}/few --preset papre", "preset"),
    ("pretrain {}/few --batch-size 5 --accumulate 2", "multiple"),
    ("pretrain {}/few --batch-size 4 --backbone test_resnet --alpha 1.5", "alpha"),
    ("pretrain {}/few --batch-size 4 --backbone convnext_atto --output-stride 5", "output_stride"),
    ("pretrain {}/few --batch-size 4 --backbone test_resnet --pretrained {}/weights.pth", "weights.pth"),
    ("pretrain {}/few --batch-size 4 --backbone test_resnet --pretrained {}/gone.pth", "gone.pth"),
    ("pretrain {}/few --batch-size 4 --max-steps 1 --backbone test_resnet --out {}/run", "already"),
    ("pretrain {}/few --batch-size 4 --backbone test_resnet --out {}/single.png", "file"),
    ("pretrain --config {}/bad.yaml", "bad.yaml"),
    ("pretrain --config {}/unknown.yaml", "unknown.yaml: no option 'bach_size' (did you mean batch_size?)"),
    ("pretrain --config {}/words.yaml", "words.yaml"),
    ("pretrain --config {}/list.yaml", "holds no options"),
    ("pretrain --config {}/own.yaml", "--trust-code"),
    ("pretrain --config {}/net.yaml", "--trust-code"),
    ("pretrain --config {}", "cannot read"),
    ("pretrain --config", "a value for --config"),
    ("pretrain --config {}/gone.yaml", "gone.yaml"),
    ("pretrain --resume {}/gone", "gone"),
    ("pretrain --resume {}/notrun", "config.yaml"),
    ("pretrain {}/few --batch-size 4 --method flow", "test_resnet gives no velocity: take --backbone unet_tiny"),
    ("pretrain {}/few --batch-size 4 --method flow --image-size 20 --backbone unet_tiny", "a multiple of 8"),
    (
        "pretrain {}/few --batch-size 4 --method flow --image-size 32 --guide timm:test_vit:random"
        " --backbone unet_tiny",
        "--clusters 50 of 6 images",
    ),
    ("pretrain {}/few --batch-size 4 --image-size 32 --method flow --guide labels --backbone unet_tiny", "have none"),
    ("pretrain {}/few --batch-size 4 --image-size 32 --method flow --guide gone --backbone unet_tiny", "--guide gone"),
    ("generate {}/gone --out {}/grid.png", "does not exist"),
    ("generate {}/run --out {}/grid.png", "makes no images"),
    ("evaluate timm:test_resnet:random --data {}/few --tasks generation", "makes no images"),
    ("evaluate {}/gone --data {}/few --tasks knn", "gone"),
    ("evaluate timm:resnet19 --data {}/few", "resnet18"),
    ("evaluate timm:resnet18:random --data {}/few --tasks knnn", "knn"),
    ("evaluate timm:resnet18:random --data {}/few --tasks knn", "labels"),
    ("evaluate timm:resnet18:random --data {}/few --tasks segment", "masks"),
    ("evaluate timm:resnet18:random", "--data"),
    ("evaluate", "for example: glocal evaluate"),
    ("evaluate timm:resnet18:random --data {}/few --task-options {{knn", "--task-options"),
    ("evaluate timm:resnet18:random --data {}/few --task-options knn", "--task-options"),
    ("evaluate timm:resnet18:random {}/few", "--data"),
    ("pretrain {}/few --batch-size 4 --image-size 64 --backbone flexivit_tiny --patches 4,7", "choose from 2, 4, 8"),
    ("pretrain {}/few --batch-size 4 --image-size 192 --backbone flexivit_tiny --patches 96", "1 to 64 px"),
    ("pretrain {}/few --batch-size 4 --image-size 64 --patches 8", "test_resnet has no patches to choose from"),
    ("evaluate timm:test_vit:random --data {}/few --patch 8", "test_vit has cells of one size only, 16 px"),
    ("evaluate timm:test_vit:random --data {}/few --patch all", "test_vit has cells of one size only, 16 px"),
    ("evaluate timm:flexivit_tiny:random --data {}/few --image-size 64 --patch 7", "--patch 7: flexivit_tiny made"),
    ("export timm:flexivit_tiny:random --patch 80 --out {}/x", "takes patches of 1 to 64 px, not of 80"),
    ("compare vicreg", "--data"),
    ("embed timm:resnet18:random {}/few --out {}/features.txt", "parquet"),
    ("embed timm:resnet18:random {}/few", "--out"),
    ("export timm:resnet18:random --format onx --out {}/x", "onnx"),
    ("report {}/notrun", "run"),
    ("methods --all", "--all"),
    ("methods vicreg", "vicreg"),
    ("report", "glocal report runs/NAME"),
]


@pytest.mark.parametrize(("arguments", "says"), MISTAKES, ids=[m[0].replace("{}/", "") for m in MISTAKES])
def test_a_mistake_is_one_clear_line(place, capsys, monkeypatch, arguments, says):
    monkeypatch.chdir(place)
    words = arguments.format(*[place] * 5).split()
    if words[0] == "pretrain" and "--resume" not in words and "--config" not in words and "--out" not in words:
        words += ["--out", str(place / "out")]
        words += [] if "--backbone" in words else ["--backbone", "test_resnet"]
    code, err = stderr_of(words, capsys)
    lines = [line for line in err.splitlines() if line.strip()]
    assert code == 2, err
    assert len(lines) == 1, err
    assert lines[0].startswith("glocal: ")
    assert says in lines[0]
    assert "Traceback" not in err
    assert not (place / "out" / "config.yaml").exists(), "a refused run must leave nothing behind"


@pytest.fixture
def given(monkeypatch):
    """What a command line gives to its function: `given("pretrain photos/")` -> {"data": "photos/"}."""

    def parse(line: str | list[str]) -> dict:
        name, *words = line.split() if isinstance(line, str) else line
        command, calls = COMMANDS[name], []

        @functools.wraps(command.function)
        def record(*args, **options):
            calls.append(inspect.signature(command.function).bind(*args, **options).arguments)

        with monkeypatch.context() as patch:
            patch.setitem(COMMANDS, name, command._replace(function=record, show=lambda result: None))
            main([name, *words])
        (arguments,) = calls
        return {key: value for key, value in arguments.items() if key != "options"} | arguments.get("options", {})

    return parse


LINES = [
    ("pretrain photos/", {"data": "photos/"}),
    ("pretrain photos/ more/ --seed 3", {"data": ["photos/", "more/"], "seed": 3}),
    ("pretrain --quiet photos/", {"data": "photos/", "quiet": True}),
    ("pretrain --quiet photos/ more/ --no-report", {"data": ["photos/", "more/"], "quiet": True, "report": False}),
    ("pretrain --cache --no-compile photos/", {"data": "photos/", "cache": True, "compile": False}),
    ("pretrain d --report false --quiet true", {"data": "d", "report": False, "quiet": True}),
    ("pretrain d --report=False --quiet=True", {"data": "d", "report": False, "quiet": True}),
    ("pretrain d --pretrained", {"data": "d", "pretrained": True}),
    ("pretrain d --pretrained --seed 1", {"data": "d", "pretrained": True, "seed": 1}),
    ("pretrain d --pretrained weights.pth", {"data": "d", "pretrained": "weights.pth"}),
    ("pretrain d --pretrained false", {"data": "d", "pretrained": False}),
    ("pretrain d --batch_size 4 --lr=1e-3", {"data": "d", "batch_size": 4, "lr": 1e-3}),
    ("pretrain d --trust_coefficient .002", {"data": "d", "trust_coefficient": 0.002}),
    ("pretrain d --precision 32", {"data": "d", "precision": "32"}),
    ("pretrain d --scale .05,.4 --alpha .5", {"data": "d", "scale": (0.05, 0.4), "alpha": 0.5}),
    ("pretrain --projector 8,16,8 d", {"data": "d", "projector": (8, 16, 8)}),
    ("pretrain d --projector 8", {"data": "d", "projector": (8,)}),
    (["pretrain", "d", "--scale=[0.5, 1.0]"], {"data": "d", "scale": (0.5, 1.0)}),
    ("pretrain d --matches 20,4", {"data": "d", "matches": (20, 4)}),
    ("pretrain d --matches 0.4", {"data": "d", "matches": 0.4}),
    ("pretrain d --method dino --outputs 64", {"data": "d", "method": "dino", "outputs": 64}),
    ("pretrain --outputs=64 --method=dino d", {"data": "d", "method": "dino", "outputs": 64}),
    ("pretrain --resume run --workers 2", {"resume": "run", "workers": 2}),
    ("evaluate RUN --data D --tasks knn linear", {"encoder": "RUN", "data": "D", "tasks": ["knn", "linear"]}),
    ("evaluate A B C --data D", {"encoder": ["A", "B", "C"], "data": "D"}),
    ("evaluate RUN --data D --tasks knn --limit 9", {"encoder": "RUN", "data": "D", "tasks": ["knn"], "limit": 9}),
    (
        "evaluate RUN --tasks knn linear --tasks segment --data D",
        {"encoder": "RUN", "data": "D", "tasks": ["knn", "linear", "segment"]},
    ),
    (
        ["evaluate", "RUN", "--data", "D", "--task-options", '{"knn": {"k": 20, "on": true}}'],
        {"encoder": "RUN", "data": "D", "task_options": {"knn": {"k": 20, "on": True}}},
    ),
    (
        ["evaluate", "RUN", "--data", "D", "--task-options={knn: {temperature: .07}}"],
        {"encoder": "RUN", "data": "D", "task_options": {"knn": {"temperature": 0.07}}},
    ),
    (
        "compare vicreg vicregl:alpha=0.75,matches=[10,4] --data a b",
        {"methods": ["vicreg", "vicregl:alpha=0.75,matches=[10,4]"], "data": ["a", "b"]},
    ),
    ("compare vicreg --data a --tasks knn", {"methods": ["vicreg"], "data": "a", "tasks": ["knn"]}),
    ("embed RUN photos/ --out f.npz --dense", {"encoder": "RUN", "data": "photos/", "out": "f.npz", "dense": True}),
    ("export RUN --out o", {"encoder": "RUN", "out": "o"}),
    ("report RUN", {"run": "RUN"}),
    ("backbones convnext*", {"pattern": "convnext*"}),
    ("tasks", {}),
]


@pytest.mark.parametrize(("line", "expected"), LINES, ids=[str(line) for line, _ in LINES])
def test_what_is_given_arrives_with_its_type_and_nothing_else(given, line, expected):
    found = given(line)
    assert found == expected
    assert {k: type(v) for k, v in found.items()} == {k: type(v) for k, v in expected.items()}


def test_a_config_file_gives_options_and_the_command_line_overrides_them(given, tmp_path):
    path = tmp_path / "run.yaml"
    options = {"data": ["a", "b"], "method": "dino", "outputs": 64, "scale": [0.5, 1.0], "epochs": 9, "lr": "1e-3"}
    path.write_text(yaml.safe_dump({**options, "cache": None, "report": False, "pretrained": True, "precision": 32}))
    read = {"method": "dino", "scale": (0.5, 1.0), "lr": 1e-3}
    read |= {"cache": None, "report": False, "pretrained": True, "precision": "32"}
    assert given(f"pretrain --config {path}") == {**read, "data": ["a", "b"], "outputs": 64, "epochs": 9}
    line = f"pretrain c --epochs 3 --config={path} --outputs 32"
    assert given(line) == {**read, "data": "c", "outputs": 32, "epochs": 3}


@pytest.mark.parametrize("method", method_names())
def test_every_option_of_a_method_survives_its_config_file(given, tmp_path, method):
    options = {name: o.default for name, o in method_options(method_class(method)).items() if name != "image_size"}
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in options.items()}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"data": "d", "method": method, **plain}))
    assert given(f"pretrain --config {tmp_path / 'config.yaml'}") == {"data": "d", "method": method, **options}


def test_a_config_file_may_have_the_names_of_older_ones(given, tmp_path):
    (tmp_path / "old.yaml").write_text("data: d\ntrust: 0.002\n")
    assert given(f"pretrain --config {tmp_path / 'old.yaml'}") == {"data": "d", "trust_coefficient": 0.002}


def test_code_is_imported_where_it_is_typed_and_not_where_a_file_names_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "named_in_a_file.py").write_text("from glocal.methods.vicreg import VICReg as Mine\n")
    (tmp_path / "run.yaml").write_text("data: d\nmethod: named_in_a_file:Mine\ntrust_code: true\n")
    code, err = stderr_of(["pretrain", "--config", "run.yaml", "--help"], capsys)
    assert code == 2
    assert "named_in_a_file:Mine" in err
    main(["pretrain", "--config", "run.yaml", "--method", "simclr", "--help"])
    assert "Options of SimCLR" in capsys.readouterr().out
    assert "named_in_a_file" not in sys.modules
    for words in (["--config", "run.yaml", "--trust-code"], ["--method", "named_in_a_file:Mine"]):
        main(["pretrain", *words, "--help"])
        assert "Options of VICReg" in capsys.readouterr().out
        assert sys.modules.pop("named_in_a_file")


@pytest.mark.parametrize("command", list(COMMANDS))
def test_help_explains_every_option_in_80_columns(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    main([command, "--help"])
    out = capsys.readouterr().out
    assert f"for example: glocal {command}" in out
    assert max(map(len, out.splitlines())) <= 80
    assert "\x1b" not in out
    assert not set("│─╭╰") & set(out), "no boxes"
    assert "--empty-" not in out
    doc = " ".join(inspect.getdoc(COMMANDS[command].function).replace("`", "").split())
    flat = " ".join(out.split())
    assert doc.partition(". ")[0] in flat
    for name in inspect.signature(COMMANDS[command].function).parameters:
        if name != "options":
            word = doc.partition(f" {name}: ")[2].split()[0]
            option = f"--{name.replace('_', '-')}" if len(name) > 1 else f"-{name}"
            assert word in flat.partition(f"{option} ")[2], f"{option} is not explained"


def test_help_of_pretrain_has_the_options_of_the_chosen_method(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    main(["pretrain", "--method", "dino", "--help"])
    common, _, own = capsys.readouterr().out.partition("Options of DINO")
    assert "--outputs INT" in own
    assert "K, number of directions. [default: 65536]" in own
    assert "--outputs" not in common
    assert "--config FILE" in common
    assert "--image-size" not in own
    assert "--backbone STR" not in own
    main(["pretrain", "--help"])
    assert "--local-projector N,..." in capsys.readouterr().out.partition("Options of VICRegL")[2]


def test_overview_is_quick():
    """Heavy imports are lazy: the help answers without torch, and without the parser."""
    code = """if True:
        import sys; from glocal.cli import main; main(['--help'])
        sys.exit(sorted({'torch', 'timm', 'cyclopts', 'rich', 'yaml'} & set(sys.modules)) or None)"""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.6, "of a processor's time"
    groups = [line for line in done.stdout.splitlines() if line and not line.startswith(" ")]
    kinds = ["train:", "measure:", "hand over:", "make:", "find:", "ask a model:", "look up:"]
    assert groups[1:] == [*kinds, "for example:", groups[-1]]
    for name in COMMANDS:
        (line,) = (line for line in done.stdout.splitlines() if line.startswith(f"  {name} "))
        assert 20 < len(line) <= 80


@pytest.fixture
def third_party(tmp_path):
    """An installed package with a command; `glocal` run beside it."""
    (tmp_path / "greetings-1.dist-info").mkdir()
    (tmp_path / "greetings-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: greetings\nVersion: 1\n")
    (tmp_path / "greetings-1.dist-info" / "entry_points.txt").write_text("[glocal.commands]\ngreet = greetings:greet\n")
    (tmp_path / "greetings.py").write_text(
        "from __future__ import annotations\n"
        "from pathlib import Path\n"
        "Path('imported').touch()\n"
        "def greet(*names: str, times: int = 1, config: str = 'none', sizes: tuple[int, ...] = (), loud=False):\n"
        '    """Greet people.\n\n    Args:\n        names: of whom.\n        times: how often.\n    """\n'
        "    return [names, times, config, sizes, loud]\n"
    )

    def run(*words: str) -> subprocess.CompletedProcess:
        path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
        command = [sys.executable, "-m", "glocal", *words]
        return subprocess.run(
            command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
        )

    return run


def test_commands_of_others_are_listed_by_distribution_and_not_imported(third_party, tmp_path):
    shown = third_party("--help").stdout
    assert "\ngreetings:\n  greet\n" in shown
    assert "did you mean greet?" in third_party("gret").stderr
    assert not Path(tmp_path, "imported").exists()


def test_commands_of_others_take_what_their_signature_says(third_party):
    done = third_party("greet", "--loud", "ann", "bo", "--times", "2", "--config", "c", "--sizes", "3,4")
    assert done.stdout.strip() == "[('ann', 'bo'), 2, 'c', (3, 4), True]", done.stderr
    assert third_party("greet").stdout.strip() == "[(), 1, 'none', (), False]"
    helped = third_party("greet", "--help").stdout
    assert "Greet people." in helped
    assert "how often. [default: 1]" in helped
    wrong = third_party("greet", "--time", "2")
    assert (wrong.returncode, wrong.stderr) == (2, "glocal: no option '--time' (did you mean --times?)\n")


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (TrainingStopped("collapsed\nat 3"), 1, "glocal: collapsed at 3\n"),
        (Interrupted("resume with: x", signal.SIGINT), 130, "glocal: resume with: x\n"),
        (Interrupted("resume with: x", signal.SIGTERM), 143, "glocal: resume with: x\n"),
        (UsageError("no such run"), 2, "glocal: no such run\n"),
        (KeyboardInterrupt(), 130, "glocal: interrupted\n"),
        (OSError(36, "File name too long", "ab"), 1, "glocal: [Errno 36] File name too long: 'ab'\n"),
        (UsageError("é" * 3000), 2, f"glocal: {'é' * 600} … {'é' * 200}\n"),
    ],
)
def test_what_ends_a_command_is_one_line_and_an_exit_code(monkeypatch, capsys, error, code, says):
    def stop():
        raise error

    monkeypatch.setitem(COMMANDS, "tasks", COMMANDS["tasks"]._replace(function=stop))
    assert stderr_of(["tasks"], capsys) == (code, says)
    monkeypatch.setitem(COMMANDS, "tasks", COMMANDS["tasks"]._replace(function=lambda: 1 / 0))
    with pytest.raises(ZeroDivisionError):
        main(["tasks"])


def test_listings(capsys, monkeypatch):
    monkeypatch.setattr("glocal.backbones.details.SECONDS", 1e-9)  # in which a speed is measured
    main(["methods"])
    said = capsys.readouterr().out.splitlines()
    lines = dict(line.split(maxsplit=1) for line in said[::2])
    assert list(lines) == method_names()
    assert "segmentation" in lines["vicregl"]
    assert all("arXiv" in paper for paper in said[1::2])
    main(["backbones", "rf4*_resnet*"])
    assert capsys.readouterr().out.split() == ["rf427_resnet50", "rf435_resnet18"]
    main(["backbones", "flexivit_t*", "--details"])
    assert "any size, drops patches, any patch, class token" in capsys.readouterr().out
    main(["backbones", "test_resn*", "--details"])
    head, line = capsys.readouterr().out.splitlines()
    assert head.split()[:3] == ["name", "parameters", "FLOPs"]
    assert line.split()[:5] == ["test_resnet", "0.4", "M", "0.2", "G"]
    assert "any size, sees " in line
    main(["tasks"])
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("segment "))
    assert "needs masks" in line
    main(["--version"])
    assert capsys.readouterr().out == f"glocal {glocal.__version__}\n"


def test_the_package_shows_what_it_has():
    assert {"pretrain", "load", "load_method", "evaluate", "embed", "export", "compare"} <= set(dir(glocal))


def test_several_encoders_stand_in_one_table(photos, tmp_path, capsys):
    encoders = ["timm:test_resnet:random", "timm:test_vit:random"]
    options = ["--data", str(photos), "--tasks", "lowshot", "copies", "--image-size", "32"]
    few = ["--task-options", "{lowshot: {shots: [1], shares: [.5], draws: 2}, copies: {images: 4}}"]
    main(["evaluate", *encoders, *options, *few, "--json", str(tmp_path / "scores.json")])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == encoders
    rows = {line.split()[0]: line.split()[1:] for line in lines[1:]}
    found = json.loads((tmp_path / "scores.json").read_text())
    assert list(found) == encoders
    assert {"lowshot.logistic_1", "lowshot.knn_50%", "copies.micro_ap", "copies.recall_jpeg"} <= rows.keys()
    assert rows["copies.micro_ap"] == [f"{found[each]['copies']['micro_ap']:.3f}" for each in encoders]
    of = found[encoders[1]]["lowshot"]
    assert rows["lowshot.knn_1"][3:] == [f"{of['knn_1']:.3f}", "±", f"{of['sd']['knn_1']:.3f}"]
