"""One optimizer on one case in this process: `python -m muon.worker CASE VARIANT THREADS [--tiny]`.

The gradients stay the same, the weights do not: the time of a step does not depend on either.
"""

from collections.abc import Callable

import numpy as np
from turns.serve import serve
from turns.timing import Calls

from muon.shapes import CASES, TINY, Shapes

RATE = 0.02
SIZE = 768  # of the product whose speed bounds that of the step


def prepare(case: str, variant: str, threads: int, tiny: bool) -> Calls:
    """Return one optimizer step, and one matrix product, as the variant does them."""
    shapes = (TINY if tiny else CASES)[case]
    start = prepare_torch if variant.startswith("torch") else prepare_mlx
    measured = start(shapes, variant, threads)
    return Calls(measured, list(measured))


def random_arrays(shapes: Shapes, seed: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {
        name: random.standard_normal(shape, np.float32) * 0.02 for name, shape in shapes.items()
    }


def prepare_mlx(shapes: Shapes, variant: str, threads: int) -> dict[str, Callable[[], object]]:
    import mlx.core as mx

    import mlx_fastcpu
    from mlx_fastcpu import reduced

    mlx_fastcpu.activate(compiler_flags="native" if variant.endswith("native") else None)
    if variant.endswith("bfloat16"):
        status = reduced.enable()
        if not status.active:
            raise SystemExit(f"{variant}: {status}")
    optimizer = make_optimizer(variant)
    parameters, gradients = (
        {name: mx.array(array) for name, array in random_arrays(shapes, seed).items()}
        for seed in (0, 1)
    )
    optimizer.init(parameters)
    state = [parameters, optimizer.state]

    def update(gradients: dict[str, mx.array]) -> None:
        state[0] = optimizer.apply_gradients(gradients, state[0])

    if not variant.startswith("mlx-eager"):
        update = mx.compile(update, inputs=state, outputs=state)
    square = mx.random.normal((SIZE, SIZE))

    def step() -> None:
        update(gradients)
        mx.eval(state)

    return {"step": step, "product": lambda: mx.eval(square @ square)}


def make_optimizer(variant: str):
    import mlx.optimizers as optim

    import mlx_muon

    if variant.startswith("mlx"):
        return optim.Muon(RATE, weight_decay=0.0)
    if variant == "polar-express":
        return mlx_muon.keller(RATE, muon=mlx_muon.MuonRule(scale="keller"))
    if variant == "nanochat":
        return mlx_muon.nanochat(n_embd=768, steps=1000)
    return mlx_muon.keller(RATE, two_streams=True if variant == "ours-one-thread" else None)


def prepare_torch(shapes: Shapes, variant: str, threads: int) -> dict[str, Callable[[], object]]:
    import torch

    torch.set_num_threads(threads)
    if variant == "torch-float32":
        # It casts to bfloat16 before it iterates; with this the same code iterates in float32.
        torch.Tensor.bfloat16 = lambda self: self  # type: ignore[method-assign]
    parameters = [
        torch.nn.Parameter(torch.from_numpy(array)) for array in random_arrays(shapes, 0).values()
    ]
    for parameter, gradient in zip(parameters, random_arrays(shapes, 1).values(), strict=True):
        parameter.grad = torch.from_numpy(gradient)
    optimizer = torch.optim.Muon(parameters, lr=RATE, weight_decay=0.0)
    square = torch.randn(SIZE, SIZE)
    return {"step": optimizer.step, "product": lambda: square @ square}


if __name__ == "__main__":
    serve(prepare)
