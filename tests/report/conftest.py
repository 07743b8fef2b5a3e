"""A small run on a few generated photographs, made once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from glocal.backbones import build_backbone, save_encoder

SIZE = 64


def write_metrics(run: Path, *, steps: int, labels: bool) -> None:
    lines = []
    for step in range(1, steps + 1):
        loss = 20.0 / step
        lines.append(
            {"step": step, "epoch": (step - 1) // 4, "loss": loss + 1, "loss/invariance": loss, "loss/variance": 1.0}
            | {"lr": 0.1, "images_per_second": 100.0 + step, "time": 0.5 * step}
        )
        if step % 4 == 0:
            knn = {"knn_top1": 0.5} if labels else {}
            lines.append({"step": step, "epoch": step // 4, "rank_pooled": 30.0, "rank_dense": 40.0, **knn})
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def arm(top1: float | None, found: float) -> dict:
    tasks: dict = {"correspond": {"within_1_cell": found, "median_error": 2.0, "chance": 0.1, "cells": 900}}
    if top1 is not None:
        tasks["knn"] = {"top1": top1, "k": 20, "temperature": 0.07}
    return {**tasks, "meta": {"n_test": 400, "split": "test", "start": "random initialisation"}}


@pytest.fixture
def make_run(tmp_path: Path, photos: Path) -> Callable[..., Path]:
    """A function that writes a run directory: encoder, config, metrics, scores, skipped files."""

    def make(
        name: str = "run", *, data: object = None, labels: bool = True, encoder: bool = True, steps: int = 40
    ) -> Path:
        run = tmp_path / name
        run.mkdir()
        if encoder:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(1)
                backbone = build_backbone("test_resnet", image_size=SIZE, pool="mean")
            save_encoder(backbone, run, images=24)
        config = {
            "data": [str(photos) if data is None else str(data)],
            "method": "vicregl",
            "backbone": "test_resnet",
            "lr": 5e-4,
        }
        (run / "config.yaml").write_text(yaml.safe_dump(config))
        write_metrics(run, steps=steps, labels=labels)
        scores = {
            **arm(0.6 if labels else None, 0.5),
            "start": arm(0.4 if labels else None, 0.3),
            "pixels": arm(0.35 if labels else None, 0.2),
        }
        (run / "evaluation.json").write_text(json.dumps(scores))
        (run / "skipped.txt").write_text("bad/<b>&.jpg\ttruncated\n")
        return run

    return make
