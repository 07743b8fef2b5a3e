"""Networks that are too large for one device: by which parts they are spread over several."""

from typing import Any

from torch.distributed.fsdp.wrap import ModuleWrapPolicy

from glocal.errors import UsageError


def block_policy(model: Any) -> ModuleWrapPolicy:
    """The policy by which FSDP gathers one block's parameters at a time.

        Fabric(strategy=FSDPStrategy(auto_wrap_policy=block_policy(encoder.model)))

    Args:
        model: a timm model whose blocks stand in lists called `blocks`, as those of transformers do.

    Raises:
        UsageError: where there are none.
    """
    lists = [module for name, module in model.named_modules() if name.rpartition(".")[2].endswith("blocks")]
    if not (kinds := {type(block) for blocks in lists for block in blocks}):
        raise UsageError(f"{type(model).__name__} has no blocks to spread over devices; take a vision transformer")
    return ModuleWrapPolicy(kinds)
