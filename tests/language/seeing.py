"""Models that see colours, in place of those that see everything."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import numpy as np
from PIL import Image

COLOURS = {"blue": (0, 0, 200), "green": (0, 200, 0), "red": (200, 0, 0)}


def pictures(request: dict[str, Any]) -> list[np.ndarray]:
    """The images in a request."""
    urls = [part["image_url"]["url"] for part in request["messages"][0]["content"] if part["type"] == "image_url"]
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))) for url in urls]


def told(request: dict[str, Any]) -> dict[str, Any]:
    """The object in a request about a label, and the colour that is seen, None for grey."""
    texts = [part["text"] for part in request["messages"][0]["content"] if part["type"] == "text"]
    (image,) = pictures(request)
    colour = image.mean((0, 1))
    seen = list(COLOURS)[2 - int(colour.argmax())] if np.ptp(colour) > 50 else None
    return next(json.loads(text) for text in texts if text.startswith("{")) | {"seen": seen}


def judge(request: dict[str, Any]) -> dict[str, Any]:
    """Is the label the colour?"""
    asked = told(request)
    qa = [{"question": "Which colour?", "answer": str(asked["seen"])}]
    return {"correct": asked["seen"] == asked["label"], "entity": asked["seen"], "rationale": "It is so.", "qa": qa}


def watch(request: dict[str, Any]) -> dict[str, Any]:
    """Which frames are white?"""
    white = [n for n, image in enumerate(pictures(request), start=1) if image.mean() > 250]
    named = request["response_format"]["json_schema"]["schema"]["properties"]
    return {"frame_ids": white, "justification": "<b>white</b>"} | ({"answer": "A flash."} if "answer" in named else {})
