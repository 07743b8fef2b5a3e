"""Glocal: learn the whole and the parts of images, without labels.

`pretrain`, `adapt`, `finetune`, `predict`, `evaluate`, `embed`, `export`, `compare`, `generate`, `inspire`, `index`,
`search`, `phases`, `curate` and `ask` are the functions behind the commands of the same names; `load` and `load_method`
open what was trained. They are loaded on first use, so that `import glocal` stays fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from glocal.api import (
        adapt,
        ask,
        compare,
        curate,
        embed,
        evaluate,
        export,
        finetune,
        generate,
        index,
        inspire,
        load,
        load_method,
        phases,
        predict,
        pretrain,
        search,
    )

__all__ = [
    "adapt", "ask", "compare", "curate", "embed", "evaluate", "export", "finetune", "generate", "index", "inspire",
    "load", "load_method", "phases", "predict", "pretrain", "search",
]  # fmt: skip
__version__ = "0.1.0.dev0"


def __getattr__(name: str) -> Any:
    if name in __all__:
        from glocal import api

        return getattr(api, name)
    raise AttributeError(f"module 'glocal' has no attribute '{name}'")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
