"""Lightning Fabric, without torchmetrics: imported only to ask for its version, it would take longer than all else."""

import sys
from typing import Any

_modules: dict[str, Any] = sys.modules
_absent = "torchmetrics" not in _modules
if _absent:
    _modules["torchmetrics"] = None  # an import of it then fails
try:
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.precision import MixedPrecision, Precision
    from lightning_fabric.strategies import DDPStrategy
finally:
    if _absent:
        del _modules["torchmetrics"]

__all__ = ["DDPStrategy", "Fabric", "MixedPrecision", "Precision"]
