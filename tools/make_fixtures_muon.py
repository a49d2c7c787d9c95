"""Make the parity fixtures of mlx-muon with the published optimizers and torch.optim.AdamW.

Run in an environment with torch, numpy and safetensors, on checkouts of the five repositories:

    python tools/make_fixtures_muon.py MUON NORMUON NANOCHAT MOONLIGHT ADAMUON

The folders of, in this order, as the fixtures were made:

- https://github.com/KellerJordan/Muon at 857d1adc159e098212f828d927460782d3da59e9
- https://github.com/zichongli5/NorMuon at d45c9a4280d758e2cf0b2b8333765d040e953937
- https://github.com/karpathy/nanochat at 92d63d4e8bb4df75c3b71618f31ddde2378b2bcd
- https://github.com/MoonshotAI/Moonlight at c2ad5b20c605086526a179d36901bfc41b52b44b
- https://github.com/Chongjie-Si/AdaMuon at 369f0b3bd9d97f82bb8ba81664207ac513e233b0

Their definitions are taken out of the files by name and run in float32 on the CPU: casts to
bfloat16 and torch.compile do nothing, collectives have one process. Made with torch 2.13.0.
"""

import ast
import contextlib
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from safetensors.numpy import save_file

FOLDER = Path(__file__).parents[1] / "packages/mlx-muon/tests/fixtures"

MATRICES = {
    "transformer.h.0.tall.weight": (12, 5),
    "transformer.h.0.wide.weight": (5, 12),
    "transformer.h.0.square.weight": (8, 8),
    "transformer.h.1.tall.weight": (12, 5),
    "transformer.h.1.attn.ve_gate.weight": (2, 12),
}
OTHERS = {"transformer.wte.weight": (10, 8), "lm_head.weight": (10, 8), "resid_lambdas": (2,)}
NANOCHAT_ONLY = {
    "value_embeds.1.weight": (10, 6),
    "x0_lambdas": (2,),
    "smear_gate.weight": (1, 6),
    "smear_lambda": (1,),
    "backout_lambda": (1,),
}
SHAPES = MATRICES | OTHERS | NANOCHAT_ONLY
STEPS = 8
N_EMBD, BATCH_TOKENS, DECAY = 192, 2**17, 0.7
# beta1, beta2, eps, decay
ADAMW_CASES = [(0.9, 0.999, 1e-8, 0.01), (0.8, 0.995, 1e-10, 0.5), (0.0, 0.9999, 1e-3, 0.0)]

Arrays = dict[str, np.ndarray]


def definitions(path: Path, names: tuple[str, ...], **values: object) -> SimpleNamespace:
    """Run the named functions, classes, methods and constants of a source file, nothing else."""
    chosen = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Assign):
            name = getattr(node.targets[0], "id", None)
        else:
            name = getattr(node, "name", None)
        if name in names:
            chosen.append(node)
    scope = {"torch": torch, "dist": torch.distributed, "math": math, "Tensor": torch.Tensor}
    scope |= values
    with replaced(torch, compile=lambda *args, **_: args[0] if args else lambda function: function):
        exec(compile(ast.Module(chosen, []), str(path), "exec"), scope)
    return SimpleNamespace(**{name: scope[name] for name in names})


@contextlib.contextmanager
def replaced(owner: object, **attributes: object):
    """Replace attributes for a while."""
    kept = {name: getattr(owner, name) for name in attributes}
    for name, value in attributes.items():
        setattr(owner, name, value)
    try:
        yield
    finally:
        for name, value in kept.items():
            setattr(owner, name, value)


def inputs() -> Arrays:
    """Return start values and the gradients of every step; small ones lie among large ones."""
    random = np.random.default_rng(0)
    found = {f"start.{name}": 0.3 * random.normal(size=shape) for name, shape in SHAPES.items()}
    for step in range(STEPS):
        for name, shape in SHAPES.items():
            found[f"gradient.{step}.{name}"] = random.normal(size=shape) * 2.0 ** (step % 3 - 1)
    return {name: value.astype(np.float32) for name, value in found.items()}


def parameters_of(arrays: Arrays, names: dict) -> dict[str, torch.nn.Parameter]:
    return {name: torch.nn.Parameter(torch.tensor(arrays[f"start.{name}"])) for name in names}


def trajectory(arrays: Arrays, parameters: dict, step_functions: list, before=None) -> Arrays:
    """Return the parameters after each step, stacked."""
    after = {name: [] for name in parameters}
    for step in range(STEPS):
        if before is not None:
            before(step)
        for name, parameter in parameters.items():
            parameter.grad = torch.tensor(arrays[f"gradient.{step}.{name}"])
        for function in step_functions:
            function()
        for name, parameter in parameters.items():
            after[name].append(parameter.detach().numpy().copy())
    return {name: np.stack(values) for name, values in after.items()}


def keller_or_normuon(path: Path, name: str, update: str, arrays: Arrays) -> Arrays:
    """Run the single-device class with AdamW beside it; matrices decay, rates as they default."""
    names = (name, update, "zeropower_via_newtonschulz5", "adam_update")
    source = definitions(path, names)
    parameters = parameters_of(arrays, MATRICES | OTHERS)
    groups = [
        {
            "params": [parameter],
            "use_muon": path in MATRICES,
            "weight_decay": 0.1 if parameter.ndim > 1 else 0.0,
        }
        for path, parameter in parameters.items()
    ]
    return trajectory(arrays, parameters, [getattr(source, name)(groups).step])


def moonlight(path: Path, arrays: Arrays) -> Arrays:
    source = definitions(path, ("Muon", "zeropower_via_newtonschulz5"))
    parameters = parameters_of(arrays, MATRICES | OTHERS)
    optimizer = source.Muon(
        lr=1e-2,
        wd=0.1,
        muon_params=[parameters[name] for name in MATRICES],
        adamw_params=[parameters[name] for name in OTHERS],
    )
    return trajectory(arrays, parameters, [torch.no_grad()(optimizer.step)])


def adamuon(path: Path, arrays: Arrays) -> Arrays:
    """Run AdaMuon, whose buffers are bfloat16 on CUDA and whose gather needs processes."""

    def gather(output: torch.Tensor, one: torch.Tensor, async_op: bool) -> SimpleNamespace:
        output[0].copy_(one)
        return SimpleNamespace(wait=lambda: None)

    source = definitions(path, ("AdaMuon", "zeropower_via_newtonschulz5"))
    parameters = parameters_of(arrays, MATRICES)
    empty, addcmul = torch.empty, torch.Tensor.addcmul_

    def in_new_order(self: torch.Tensor, value: float, *factors: torch.Tensor) -> torch.Tensor:
        return addcmul(self, *factors, value=value)

    with (
        replaced(torch, empty=lambda *shape, **_: empty(*shape)),
        replaced(torch.distributed, all_gather_into_tensor=gather),
        replaced(torch.Tensor, addcmul_=in_new_order),
    ):
        optimizer = source.AdaMuon(
            parameters.values(), lr=1e-2, weight_decay=0.1, rank=0, world_size=1
        )
        return trajectory(arrays, parameters, [optimizer.step])


def nanochat(folder: Path, arrays: Arrays) -> Arrays:
    """Run nanochat's groups, schedules and optimizer, as its pretraining script joins them."""
    optim = definitions(
        folder / "nanochat/optim.py",
        ("polar_express_coeffs", "adamw_step_fused", "muon_step_fused", "MuonAdamW"),
        COMPUTE_DTYPE=torch.float32,
    )
    model = definitions(
        folder / "nanochat/gpt.py",
        ("setup_optimizer",),
        MuonAdamW=optim.MuonAdamW,
        print0=lambda *_: None,
    )
    parameters = parameters_of(arrays, SHAPES)
    batch = math.sqrt(BATCH_TOKENS / 2**19)
    optimizer = model.setup_optimizer(
        stand_in_for_the_model(parameters),
        unembedding_lr=0.008 * batch,
        embedding_lr=0.3 * batch,
        scalar_lr=0.5 * batch,
        matrix_lr=0.02 * batch,
        weight_decay=DECAY,
    )
    rate, momentum, decay = schedules(folder, STEPS, 2, 0.5)

    def before(step: int) -> None:
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * rate(step)
            if group["kind"] == "muon":
                group["momentum"], group["weight_decay"] = momentum(step), decay(step)

    return trajectory(arrays, parameters, [optimizer.step], before)


def stand_in_for_the_model(parameters: dict) -> SimpleNamespace:
    """Return what nanochat's `setup_optimizer` reads of its model."""

    def module(prefix: str) -> SimpleNamespace:
        found = [value for name, value in parameters.items() if name.startswith(prefix)]
        return SimpleNamespace(parameters=lambda: found)

    return SimpleNamespace(
        config=SimpleNamespace(n_embd=N_EMBD),
        transformer=SimpleNamespace(h=module("transformer.h."), wte=module("transformer.wte.")),
        value_embeds=module("value_embeds."),
        lm_head=module("lm_head."),
        smear_gate=SimpleNamespace(weight=parameters["smear_gate.weight"]),
        parameters=parameters.values,
        **{name: value for name, value in parameters.items() if "." not in name},
    )


def schedules(folder: Path, steps: int, warmup: int, warmdown: float) -> list:
    """Return nanochat's functions of the step: rate, Muon's momentum, Muon's decay."""
    args = SimpleNamespace(warmup_steps=warmup, warmdown_ratio=warmdown, final_lr_frac=0.05)
    names = ("get_lr_multiplier", "get_muon_momentum", "get_weight_decay")
    source = definitions(
        folder / "scripts/base_train.py",
        names,
        args=args,
        num_iterations=steps,
        weight_decay_scaled=DECAY,
    )
    return [getattr(source, name) for name in names]


def adamw_cases() -> Arrays:
    """50 steps of torch.optim.AdamW from one start, with several betas, eps and decays."""
    random = np.random.default_rng(1)
    start = random.normal(size=(6, 5)).astype(np.float32)
    gradients = random.normal(size=(50, 6, 5)).astype(np.float32)
    gradients *= 10.0 ** random.uniform(-4, 2, size=(50, 1, 1)).astype(np.float32)
    found = {"start": start, "gradients": gradients}
    for index, (beta1, beta2, eps, decay) in enumerate(ADAMW_CASES):
        # float64, so that the comparison sees the rounding of one implementation only.
        weight = torch.nn.Parameter(torch.tensor(start, dtype=torch.float64))
        optimizer = torch.optim.AdamW(
            [weight], lr=1e-2, betas=(beta1, beta2), eps=eps, weight_decay=decay
        )
        after = []
        for gradient in gradients:
            weight.grad = torch.tensor(gradient, dtype=torch.float64)
            optimizer.step()
            after.append(weight.detach().numpy().copy())
        found[f"after.{index}"] = np.stack(after)[[0, 9, 49]].astype(np.float32)
    return found


def main(folders: list[Path]) -> None:
    muon, normuon, nanochat_folder, moonlight_folder, adamuon_folder = folders
    arrays = inputs()
    with replaced(torch.Tensor, bfloat16=lambda self: self):
        found = {
            "keller": keller_or_normuon(
                muon / "muon.py", "SingleDeviceMuonWithAuxAdam", "muon_update", arrays
            ),
            "normuon": keller_or_normuon(
                normuon / "normuon.py", "SingleDeviceNorMuonWithAuxAdam", "normuon_update", arrays
            ),
            "nanochat": nanochat(nanochat_folder, arrays),
            "moonlight": moonlight(moonlight_folder / "examples/toy_train.py", arrays),
            "adamuon": adamuon(adamuon_folder / "gpt2/models/optimizers/adamuon.py", arrays),
        }
    for preset, after in found.items():
        arrays |= {f"{preset}.{name}": value for name, value in after.items()}
    FOLDER.mkdir(exist_ok=True)
    save_file(arrays, FOLDER / "sources.safetensors")
    steps = list(range(0, 1500, 7))
    functions = schedules(nanochat_folder, 1500, 40, 0.65)
    values = {
        name: np.array([function(step) for step in steps], np.float32)
        for name, function in zip(("rate", "momentum", "decay"), functions, strict=True)
    }
    save_file({"steps": np.array(steps), **values}, FOLDER / "nanochat_schedules.safetensors")
    save_file(adamw_cases(), FOLDER / "adamw.safetensors")


if __name__ == "__main__":
    if len(sys.argv) != 6:
        sys.exit(__doc__)
    main([Path(folder) for folder in sys.argv[1:]])
