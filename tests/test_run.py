"""A run's directory: locked by one process, written whole or not at all, usable however the run ended."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import glocal
from glocal.backbones.weights import read_checkpoint
from glocal.commands import read_config
from glocal.errors import UsageError
from glocal.run import OutFiles, Run, check_place, write_atomically
from processes import run

TINY = {
    "method": "vicreg",
    "backbone": "test_resnet",
    "image_size": 32,
    "batch_size": 4,
    "epochs": 1,
    "workers": 0,
    "report": False,
    "quiet": True,
    "precision": "32",
    "projector": (16, 16),
}
DATA = "parts:n=12,size=32"  # three steps

HOLD = """
import os, sys, time
from glocal.run import Run
with Run(sys.argv[1]).lock():
    if os.fork() == 0:  # as a loader's worker, which may outlive its parent
        time.sleep(60)
        os._exit(0)
    print("held", flush=True)
    time.sleep(60)
"""


def hold(path: Path) -> subprocess.Popen:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    return process


def test_a_second_process_is_told_and_the_lock_dies_with_the_first_though_its_workers_live(tmp_path):
    process = hold(tmp_path)
    try:
        with pytest.raises(UsageError, match="another process is training in"), Run(tmp_path).lock():
            pass
        process.kill()
        process.wait()
        with Run(tmp_path).lock():  # the forked child is still there
            os.killpg(process.pid, 0)
    finally:
        os.killpg(process.pid, signal.SIGKILL)


def test_where_there_are_no_locks_training_goes_on_and_says_so(tmp_path, monkeypatch, capsys):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.lockf", refuse)
    with Run(tmp_path).lock():
        assert "no locks on this file system" in capsys.readouterr().err


def test_two_commands_on_one_directory_do_not_meet(tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    process = hold(out)
    try:
        with pytest.raises(UsageError, match="another process is training"):
            glocal.pretrain(DATA, out=str(out), **TINY)
        assert not (out / "config.yaml").exists()
    finally:
        os.killpg(process.pid, signal.SIGKILL)


def test_a_file_is_there_whole_or_not_at_all_with_ordinary_permissions(tmp_path):
    path = tmp_path / "made" / "file"
    write_atomically(path, "first")

    def fail(partial: Path) -> None:
        partial.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, fail)
    assert path.read_text() == "first"
    assert list(path.parent.iterdir()) == [path]
    write_atomically(path, lambda partial: (partial.unlink(), partial.touch(mode=0o600)))
    sibling = tmp_path / "sibling"
    sibling.touch()
    assert path.stat().st_mode == sibling.stat().st_mode


def test_files_about_images_stay_in_their_folder_and_apart(tmp_path):
    files = OutFiles(tmp_path, ".png")
    keys = ["a.jpg", "b/a.jpg", "../../a.jpg", "a.png", "/etc/x.webp", "A.JPG", "..", "b/../a.gif", "a.jpg", "x.tar.gz"]
    found = [files.of(key).relative_to(tmp_path).as_posix() for key in keys]
    assert found[:2] == ["a.png", "b/a.png"]
    assert found[2] == "a.jpg.png", "that of the first is taken"
    assert found[3:5] == ["a.png.png", "etc/x.png"]
    assert found[-1] == "x.tar.png"
    assert len({name.lower() for name in found}) == len(keys)
    assert not any(".." in Path(name).parts for name in found)


def test_lines_that_are_no_metrics_are_left_out(tmp_path):
    Run(tmp_path).metrics_file.write_bytes(
        b'{"step": 1, "loss": 2.0}\n[3]\nnull\n\xff\xfe\n{"loss": 1}\n{"step": 2, "lo'
    )
    assert Run(tmp_path).metrics() == [{"step": 1, "loss": 2.0}]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return glocal.pretrain(DATA, out=str(tmp_path_factory.mktemp("run") / "whole"), **TINY)


@pytest.mark.parametrize("again", ["--out", "--resume"])
def test_a_run_that_was_killed_before_its_first_checkpoint_is_no_dead_end(whole, tmp_path, again):
    out = tmp_path / "run"
    out.mkdir()
    (out / "config.yaml").write_text((whole / "config.yaml").read_text())
    if again == "--out":
        glocal.pretrain(DATA, out=str(out), **TINY)
    else:
        glocal.pretrain(resume=str(out), quiet=True)
    assert (out / "encoder.safetensors").read_bytes() == (whole / "encoder.safetensors").read_bytes()
    with pytest.raises(UsageError, match="already holds a run"):
        glocal.pretrain(DATA, out=str(out), **TINY)


def test_a_run_that_was_killed_between_two_checkpoints_goes_on_from_the_one_before(whole, tmp_path):
    out = tmp_path / "run"
    (out / "checkpoints").mkdir(parents=True)
    (out / "config.yaml").write_text((whole / "config.yaml").read_text())
    (out / "checkpoints/previous.pt").write_bytes((whole / "checkpoints/previous.pt").read_bytes())
    glocal.pretrain(resume=str(out), quiet=True)
    assert (out / "encoder.safetensors").read_bytes() == (whole / "encoder.safetensors").read_bytes()


def test_an_interrupted_run_serves_with_its_last_checkpoint_and_says_so(whole, tmp_path, capsys):
    out = tmp_path / "run"
    (out / "checkpoints").mkdir(parents=True)
    for name in ("config.yaml", "checkpoints/last.pt"):
        (out / name).write_bytes((whole / name).read_bytes())
    ours, finished = glocal.load(str(out)), glocal.load(str(whole))
    assert "has not finished: the encoder of its last checkpoint, step 3, is taken" in capsys.readouterr().err
    for name, value in finished.state_dict().items():
        assert value.equal(ours.state_dict()[name]), name
    run = glocal.pretrain(DATA, out=str(tmp_path / "next"), pretrained=str(out), **(TINY | {"lr": 0.0, "max_steps": 1}))
    first = next(iter(finished.model.parameters()))
    assert next(iter(glocal.load(str(run)).model.parameters())).equal(first)


def test_options_that_resume_would_ignore_are_refused(whole):
    with pytest.raises(UsageError, match="--resume takes epochs from"):
        glocal.pretrain(resume=str(whole), epochs=7)


def test_images_from_memory_are_asked_for_again(whole, tmp_path):
    import numpy as np

    images = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
    run = glocal.pretrain(images, out=str(tmp_path / "run"), **TINY)
    assert Run(run).config()["data"] is None
    with pytest.raises(UsageError, match=r"were given in Python: glocal\.pretrain\(images, resume="):
        glocal.pretrain(resume=str(run))
    glocal.pretrain(images, resume=str(run), quiet=True)


def test_the_first_free_name_is_taken_by_one_of_many(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert [str(Run.create(None, "a-b").path) for _ in range(3)] == ["runs/a-b-1", "runs/a-b-2", "runs/a-b-3"]


MINE = """
from glocal.methods import VICReg

print("imported")


class Spread(VICReg):
    pass
"""


def test_code_that_a_run_names_is_imported_only_with_consent_which_the_refusal_spells_out(tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    options = [f"--{k.replace('_', '-')}={list(v) if isinstance(v, tuple) else v}" for k, v in TINY.items()]
    run("pretrain", DATA, "--method=mine:Spread", "--out=run", *options[1:], "--max-steps=1", cwd=tmp_path)
    for arguments in (["pretrain", "--resume", "run"], ["pretrain", "--config", "run/config.yaml", "--out", "again"]):
        refused = run(*arguments, cwd=tmp_path, check=False)
        assert refused.returncode == 2, refused.stderr
        assert "imported" not in refused.stdout
        command = refused.stderr.strip().partition("if you trust it: glocal ")[2]
        assert command.endswith("--trust-code"), refused.stderr
        run(*command.split(), cwd=tmp_path)
    assert "imported" not in run("report", "run", cwd=tmp_path).stdout


def test_what_a_damaged_run_lacks_is_said(whole, tmp_path):
    out = tmp_path / "run"
    (out / "checkpoints").mkdir(parents=True)
    for name in ("config.yaml", "data.txt.gz", "checkpoints/previous.pt"):  # a kill fell between two checkpoints
        (out / name).write_bytes((whole / name).read_bytes())
    assert glocal.load(str(out)).image_size == 32
    (out / "checkpoints/previous.pt").write_bytes(b"PK\3\4")
    with pytest.raises(UsageError, match="no whole checkpoint"):
        glocal.load(str(out))
    for content in (b"no gzip", (whole / "data.txt.gz").read_bytes()[:-9]):
        (out / "data.txt.gz").write_bytes(content)
        with pytest.raises(UsageError, match=r"data\.txt\.gz is damaged; delete it"):
            glocal.pretrain(resume=str(out), quiet=True)


@pytest.mark.parametrize("text", ["seed: 2024-13-45\n", "data: " + "[" * 1000])
def test_values_that_no_reader_survives_are_refused(tmp_path, text):
    run = Run(tmp_path)
    run.config_file.write_text(text)
    with pytest.raises(UsageError, match=r"config\.yaml is not valid YAML"):
        run.config()
    with pytest.raises(UsageError, match=r"config\.yaml is not valid YAML"):
        read_config({"config": str(run.config_file)})
    for file in (run.encoder_files[1], run.metrics_file):
        file.write_text("[" * 100_000)
    with pytest.raises(UsageError, match=r"encoder\.json is not valid JSON"):
        run.encoder()
    assert run.metrics() == []


def test_changed_data_is_named_and_refused_unless_accepted(tmp_path, capsys):
    from PIL import Image

    for name in ("a/1.png", "a/2.png", "b/3.png", "b/4.png", "b/5.png"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (len(name) * 9, 3, 7)).save(tmp_path / "photos" / name)
    photos = str(tmp_path / "photos")
    run = glocal.pretrain(photos, out=str(tmp_path / "run"), **(TINY | {"batch_size": 2}))
    glocal.pretrain(resume=str(run), quiet=True)
    (tmp_path / "photos" / "a" / "1.png").rename(tmp_path / "photos" / "a" / "0.png")
    with pytest.raises(UsageError, match=r"has changed \(1 gone: a/1\.png; 1 new: a/0\.png\); .*--accept-changed-data"):
        glocal.pretrain(resume=str(run), quiet=True)
    glocal.pretrain(resume=str(run), accept_changed_data=True)
    assert "1 new: a/0.png), which is accepted" in capsys.readouterr().out
    glocal.pretrain(resume=str(run), quiet=True)


def test_a_plan_of_other_images_is_made_anew(tmp_path, monkeypatch):
    from PIL import Image

    from glocal.methods.deepcluster import DeepCluster

    for i in range(12):
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.new("RGB", (32, 32), (20 * i, 3, 7)).save(tmp_path / "photos" / f"{i:02}.png")

    def enough(self, progress):
        if progress > 8 / 24:
            raise RuntimeError("enough")

    options: dict = TINY | {"method": "deepcluster", "clusters": 3, "batch_size": 2, "epochs": 4, "checkpoint_steps": 1}
    del options["projector"]
    with monkeypatch.context() as patch:
        patch.setattr(DeepCluster, "after_step", enough, raising=False)
        with pytest.raises(RuntimeError, match="enough"):
            glocal.pretrain(str(tmp_path / "photos"), out=str(tmp_path / "run"), **options)
    state = read_checkpoint(Run(tmp_path / "run"))["position"]
    assert (state["step"], state["epoch"], state["batch"]) == (8, 1, 2)
    for i in range(8, 12):
        (tmp_path / "photos" / f"{i:02}.png").unlink()
    run = Run(glocal.pretrain(resume=str(tmp_path / "run"), quiet=True, accept_changed_data=True))
    state = read_checkpoint(run)["position"]
    assert len(state["plan"]["order"]) == 8
    assert state["plan"]["order"].max() < 8


def test_another_number_of_processes_would_be_another_run(tmp_path, monkeypatch):
    run = glocal.pretrain("parts:n=16,size=40", out=str(tmp_path / "run"), **TINY)
    for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"):
        monkeypatch.setenv(name, "2")
    with pytest.raises(UsageError, match=r"was begun on 1 processes, not 2: .* start as many"):
        glocal.pretrain(resume=str(run), quiet=True)


def test_what_a_writer_says_of_a_full_disk_is_said_plainly(tmp_path, monkeypatch):
    def broken(path):
        raise RuntimeError("[enforce fail at inline_container.cc:671] . unexpected pos 456768 vs 456664")

    with pytest.raises(RuntimeError, match="unexpected pos"):
        write_atomically(tmp_path / "last.pt", broken)

    def full(**_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("glocal.run.tempfile.TemporaryFile", full)
    with pytest.raises(OSError, match=f"No space left on device: '{tmp_path}'"):
        write_atomically(tmp_path / "last.pt", broken)
    assert not list(tmp_path.iterdir())


def test_accumulated_batches_need_as_many_images(tmp_path):
    with pytest.raises(UsageError, match=r"has 6 images, fewer than one batch of 8"):
        glocal.pretrain("parts:n=6,size=40", out=str(tmp_path / "run"), **(TINY | {"batch_size": 8, "accumulate": 2}))
    assert not (tmp_path / "run").exists()


def test_a_file_is_not_written_over_what_is_read_nor_where_a_folder_is(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "captions.csv").write_text("image,caption")
    (tmp_path / "film.mp4").write_text("")
    (tmp_path / "link.mp4").symlink_to("film.mp4")
    for out, *read in ([None, photos], [tmp_path / "new.html", photos, None], [photos / "new.csv", photos]):
        check_place("--page", out, *read)
    for out, *read in (
        [tmp_path / "film.mp4", tmp_path / "film.mp4"], [tmp_path / "link.mp4", None, tmp_path / "film.mp4"],
        [photos / "captions.csv", photos],
    ):  # fmt: skip
        with pytest.raises(UsageError, match=rf"--page {out} is what is read"):
            check_place("--page", out, *read)
    with pytest.raises(UsageError, match=rf"--page {photos} is a folder: name a file in it"):
        check_place("--page", photos)
