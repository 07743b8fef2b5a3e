"""Glocal: learn the whole and the parts of images, without labels.

`pretrain`, `load`, `evaluate`, `embed`, `export` and `compare` are the functions behind the commands of the same names;
`load_method` gives a run's whole method, heads and teacher included. They are loaded on first use, so that
`import glocal` and `glocal --help` stay fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from glocal.api import compare, embed, evaluate, export, load, load_method, pretrain

__all__ = ["compare", "embed", "evaluate", "export", "load", "load_method", "pretrain"]
__version__ = "0.1.0.dev0"


def __getattr__(name: str) -> Any:
    if name in __all__:
        from glocal import api

        return getattr(api, name)
    raise AttributeError(f"module 'glocal' has no attribute '{name}'")
