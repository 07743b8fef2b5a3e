"""One file per published system.

A method is an `nn.Module` whose constructor takes a backbone and, by keyword, its whole configuration. It has:

- `recipe`: the views it wants (`glocal.views.Recipe`); `optimization`: how its paper trains it;
- `forward(batch: Batch) -> Loss`; `encoder`: what is exported;
- on the class: `title`, `paper`, `pool` (how its backbone pools) and `presets` (see `Preset`).

It works in any training loop. Registering the class under the entry-point group `glocal.methods` makes it a name for
`glocal pretrain --method`.
"""

from glocal.methods.encode import encode
from glocal.methods.optimization import Optimization
from glocal.methods.presets import Preset, width_for
from glocal.methods.registry import method_class, method_names, method_options, resolve_options
from glocal.methods.vicreg import VICReg
from glocal.methods.vicregl import VICRegL

__all__ = [
    "Optimization",
    "Preset",
    "VICReg",
    "VICRegL",
    "encode",
    "method_class",
    "method_names",
    "method_options",
    "resolve_options",
    "width_for",
]
