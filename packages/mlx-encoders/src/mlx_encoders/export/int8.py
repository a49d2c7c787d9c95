"""A second ONNX file with 8-bit weights, and what that costs."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from mlx_encoders.export.report import Int8Report, file_size
from mlx_encoders.export.verify import Batch, Outputs, accuracy, compare, cosine, onnx_runner


def write_int8(source: Path, target: Path, external_data: bool = False) -> None:
    """Write `source` with 8-bit embeddings and matrices, and 8-bit inputs of their products.

    Matrices have a scale and a zero for each output: on real MiniLM the cosine similarity to
    float32 embeddings is then 0.994, with one scale for a matrix 0.958. Both are unsigned, because
    signed ones saturate on CPUs with AVX2 alone.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        prepared = Path(folder) / "prepared.onnx"
        # Only the inference of shapes; without it quantize_dynamic configures the root logger.
        quant_pre_process(
            source,
            prepared,
            skip_optimization=True,
            skip_symbolic_shape=True,
            save_as_external_data=external_data,
            all_tensors_to_one_file=True,
            external_data_location="prepared.onnx.data",
        )
        quantize_dynamic(
            prepared,
            target,
            per_channel=True,
            weight_type=QuantType.QUInt8,
            use_external_data_format=external_data,
        )


def measure_int8(
    path: Path, batches: Sequence[Batch], expected: Sequence[Outputs], labels: Sequence[int] | None
) -> Int8Report:
    """Compare the file with the outputs `expected` of the float32 one."""
    run = onnx_runner(path)
    found = [run(batch) for batch in batches]
    return Int8Report(
        path,
        file_size(path),
        compare(expected, found)[0],
        cosine(expected, found),
        None if labels is None else accuracy(found, labels),
    )
