"""A process that computes one classifier on batches without padding, told when by the other side.

CASE is the folder of a classifier for the variant mlx, of its ONNX files for float32 and int8.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from turns.serve import serve
from turns.timing import Calls

SHAPES = ((1, 32), (1, 128), (16, 64))
"""Rows and tokens of the batches."""


def prepare(case: str, variant: str, threads: int, tiny: bool) -> Calls:
    """Return one call for each shape."""
    from mlx_encoders import load_config
    from mlx_encoders.export.verify import sample_batch

    compute = _mlx(case) if variant == "mlx" else _onnxruntime(case, variant, threads)
    config = load_config(case)
    calls = {f"{B}x{L}": partial(compute, sample_batch(config, B, L)) for B, L in SHAPES}
    return Calls(calls, list(calls))


def _mlx(folder: str) -> Callable:
    import mlx_fastcpu

    mlx_fastcpu.activate()
    import mlx.core as mx

    from mlx_encoders import load_task_model

    model, _ = load_task_model(folder)
    mlx_fastcpu.patch_nn(model)

    def compute(batch: dict) -> None:
        mx.eval(model(**{name: mx.array(array) for name, array in batch.items()}))

    return compute


def _onnxruntime(folder: str, variant: str, threads: int) -> Callable:
    import onnxruntime

    name = "model.onnx" if variant == "float32" else "model_int8.onnx"
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        str(Path(folder) / name), options, providers=["CPUExecutionProvider"]
    )
    return lambda batch: session.run(None, batch)


if __name__ == "__main__":
    serve(prepare)
