"""One variant of one case in this process: `python -m cpu.worker CASE VARIANT THREADS [--tiny]`."""

from turns.serve import serve
from turns.timing import Calls

from cpu.sizes import SIZES


def prepare(case: str, variant: str, threads: int, tiny: bool) -> Calls:
    """Import what the variant needs, and nothing else."""
    if case == "matmul" and variant == "numpy":
        from cpu import matmul

        return matmul.prepare(variant, tiny)
    if variant == "torch":
        from cpu import torch_models

        return torch_models.prepare(case, threads, tiny)
    from cpu import variants

    variants.activate(variant)
    if case == "matmul":
        from cpu import matmul

        return matmul.prepare(variant, tiny)
    if case in SIZES:
        from cpu import mlx_models

        return mlx_models.prepare(case, variant, tiny)
    from cpu import quantized

    prepare_quantized = {"qlora": quantized.prepare_qlora, "decode": quantized.prepare_decode}
    return prepare_quantized[case](variant, tiny)


if __name__ == "__main__":
    serve(prepare)
