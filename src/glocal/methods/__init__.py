"""One file per published system.

A method is an `nn.Module` whose constructor takes a backbone and, by keyword, its whole configuration; what it has
besides, and what of that is optional, stands in docs/architecture.md. It works in any training loop; for
`glocal pretrain --method` it is found as `glocal.plugins` says. What the options mean that many methods have says
`glocal.methods.registry.SHARED_OPTIONS`.

**Buffers are equal on all processes**, after every step: queues, centres, covariances, running statistics, and all
parameters that DDP does not average. Training refuses a run in which they drift apart. What is made of
`glocal.distributed.gather(x)` or `all_sum(x)` is the same everywhere, and `update_ema` moves teachers alike; BatchNorm
layers need nothing: on several processes theirs are replaced by those of the joined batch.
"""

from glocal.methods.barlow_twins import BarlowTwins
from glocal.methods.byol import BYOL
from glocal.methods.co import COBYOL, CODINO, COMoCoV3, co
from glocal.methods.co_vicreg import COVICReg
from glocal.methods.contriever import Contriever
from glocal.methods.dcgan import DCGAN
from glocal.methods.dcl import DCL, DCLW
from glocal.methods.deepcluster import DeepCluster
from glocal.methods.deepcluster_v2 import DeepClusterV2
from glocal.methods.deepercluster import DeeperCluster
from glocal.methods.dino import DINO
from glocal.methods.directclr import DirectCLR
from glocal.methods.encode import check_fits, encode
from glocal.methods.flow import Flow
from glocal.methods.irmae import IRMAE
from glocal.methods.jepa import JEPA
from glocal.methods.loca import LOCA
from glocal.methods.mocov3 import MoCoV3
from glocal.methods.msn import MSN
from glocal.methods.nnclr import NNCLR
from glocal.methods.patches import drawn_patch
from glocal.methods.paws import PAWS
from glocal.methods.published import Optimization, Preset, suited_to, width_for
from glocal.methods.registry import (
    check_built,
    check_loss,
    citation,
    method_class,
    method_names,
    method_options,
    resolve_options,
)  # fmt: skip
from glocal.methods.seer import SEER
from glocal.methods.simclr import SimCLR
from glocal.methods.swav import SwAV
from glocal.methods.teacher import ema_copy, teacher_of, update_ema
from glocal.methods.vfc import VFC
from glocal.methods.vicreg import VICReg
from glocal.methods.vicregl import VICRegL

__all__ = [
    "BYOL", "COBYOL", "CODINO", "DCGAN", "DCL", "DCLW", "DINO", "IRMAE", "JEPA", "LOCA", "MSN", "NNCLR", "PAWS",
    "SEER", "VFC", "BarlowTwins", "COMoCoV3", "COVICReg", "Contriever", "DeepCluster", "DeepClusterV2",
    "DeeperCluster", "DirectCLR", "Flow", "MoCoV3", "Optimization", "Preset", "SimCLR", "SwAV", "VICReg", "VICRegL",
    "check_built", "check_fits", "check_loss", "citation", "co", "drawn_patch", "ema_copy", "encode", "method_class",
    "method_names", "method_options", "resolve_options", "suited_to", "teacher_of", "update_ema", "width_for",
]  # fmt: skip
