"""A run for test_distributed.py: trains with each preset, sharing the work among all processes.

Usage: distributed_run.py OUTPUT_FOLDER; exits with 77 where the ring cannot start.
"""

import os
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from mlx_muon import Group, MuonRule, adamuon, keller, nanochat

mx.set_default_device(mx.cpu)
group = None
if "MLX_RANK" in os.environ:
    try:
        group = mx.distributed.init(strict=True, backend="ring")
    except RuntimeError as error:
        print(error, file=sys.stderr)
        sys.exit(77)

SHAPES = {
    "embed": (9, 8),
    "blocks.0.tall": (20, 8),
    "blocks.1.tall": (20, 8),
    "blocks.2.tall": (20, 8),
    "blocks.0.wide": (8, 20),
    "blocks.0.square": (12, 12),
    "blocks.0.conv": (6, 2, 2, 5),
    "experts": (3, 12, 9),
    "qkv": (24, 8),
    "bias": (8,),
}
SPLIT = Group("qkv", MuonRule(split=(12, 6, 6), variance="short"))
PRESETS = {
    "keller": lambda **options: keller(0.02, weight_decay=0.1, **options),
    "adamuon": adamuon,
    "nanochat": lambda **options: nanochat(768, 10, warmup_steps=2, **options),
    "loop": lambda **options: keller(0.02, max_batch_bytes=0, **options),
}


def normal(shape, seed):
    return mx.array(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def trained(make, shapes):
    """Return the parameters and the optimizer's state after 4 steps."""
    optimizer = make(groups=[SPLIT], distributed=group)
    parameters = {path: normal(shape, 0) for path, shape in shapes.items()}
    for step in range(4):
        gradients = {
            path: normal(shape, 100 + 20 * step + index)
            for index, (path, shape) in enumerate(shapes.items())
        }
        parameters = optimizer.apply_gradients(gradients, parameters)
        mx.eval(parameters, optimizer.state)
    return {"parameters": parameters, "state": optimizer.state}


found = {name: trained(make, SHAPES) for name, make in PRESETS.items()}
# Fewer matrices than processes, and none at all.
found["one"] = trained(keller, {"w": (6, 4)})
found["none"] = trained(keller, {"bias": (6,)})
rank = os.environ.get("MLX_RANK", "alone")
mx.save_safetensors(str(Path(sys.argv[1]) / f"{rank}.safetensors"), dict(tree_flatten(found)))
