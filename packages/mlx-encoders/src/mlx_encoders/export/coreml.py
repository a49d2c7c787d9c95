"""Write a model as a Core ML package, through coremltools' builder of MIL programs."""

import io
import logging
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mlx_encoders.bert import BertConfig
from mlx_encoders.export._mil_graph import MilOperations
from mlx_encoders.export.encoders import GraphInputs, rearrange
from mlx_encoders.export.heads import (
    ExportHead,
    HeadOptions,
    Pooling,
    build_outputs,
    check_options,
)
from mlx_encoders.export.report import CoreMLReport, file_size
from mlx_encoders.export.verify import (
    Batch,
    Outputs,
    compare,
    max_length,
    mlx_outputs,
    probe_batches,
)
from mlx_encoders.export.weights import float_weights, with_weights


def export_coreml(
    model: Any,
    output: str | Path,
    *,
    adapter: str | Path | None = None,
    length: int = 512,
    precision: Literal["float32", "float16"] = "float32",
    pooling: Pooling | None = None,
    normalize: bool = False,
    probabilities: bool = False,
    temperature: float | None = None,
    head: ExportHead | None = None,
) -> CoreMLReport:
    """Write `model` as an ML program for macOS 13 and iOS 16, for one sequence at a time.

    `output` is a package `*.mlpackage`, or a folder, which gets `model.mlpackage`. Inputs and
    outputs are those of `export_onnx`, int32, of 1 to `length` tokens; dense ones of a `head` are
    float32.

    Core ML itself exists only on macOS and is not run here. Instead coremltools evaluates the
    program on constant inputs, in NumPy and float32, and these outputs are compared with those of
    MLX: the error is `ValueError`, as in `export_onnx`, and no file is left. That checks the
    program, not the rounding of Apple's hardware, nor float16. Raises `ImportError` without
    coremltools.
    """
    options = HeadOptions(pooling, normalize, probabilities, temperature, head)
    check_options(model, options)
    longest = max_length(model.config)
    if not 1 <= length <= longest:
        raise ValueError(f"length must be 1 to {longest}, which the model takes; got {length}")
    if precision not in ("float32", "float16"):
        raise ValueError(f"precision must be float32 or float16, got {precision!r}")
    weights = float_weights(model, adapter)
    reference = with_weights(model, weights)
    rearrange(model.config, model.base_prefix, weights)
    dense = dict(head.dense) if head else {}
    weights |= head.weights if head else {}
    batches = [row for batch in probe_batches(model.config, dense) for row in _rows(batch)]
    expected = [mlx_outputs(reference, options, batch) for batch in batches]
    path = Path(output)
    path = path if path.suffix == ".mlpackage" else path / "model.mlpackage"
    with _coremltools() as ct:
        found = [evaluate(ct, model, weights, options, batch) for batch in batches]
        difference, problem = compare(expected, found)
        if problem:
            raise ValueError(
                f"the MIL program does not compute what MLX does, nothing was written: {problem}"
            )
        program = build_program(ct, model, weights, options)
        sizes = (1, ct.RangeDim(lower_bound=1, upper_bound=length, default=min(length, 128)))
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".export-", dir=path.parent) as temporary:
            written = Path(temporary) / path.name
            ct.convert(
                program,
                source="milinternal",
                convert_to="mlprogram",
                inputs=[
                    *(ct.TensorType(each, sizes, np.int32) for each in _input_names(model)),
                    *(ct.TensorType(each, (1, dense[each]), np.float32) for each in dense),
                ],
                minimum_deployment_target=ct.target.iOS16,
                compute_precision=getattr(ct.precision, precision.upper()),
                skip_model_load=True,
                package_dir=str(written),
            )
            if path.exists():
                shutil.rmtree(path)
            written.replace(path)
    return CoreMLReport(path, file_size(path), difference)


def build_program(ct: Any, model: Any, weights: dict[str, np.ndarray], options: HeadOptions) -> Any:
    """Return the MIL program for one sequence of any length."""
    builder, mil = ct.converters.mil.Builder, ct.converters.mil.mil
    symbol = mil.get_new_symbol()
    specs = {
        name: builder.TensorSpec(shape=(1, symbol), dtype=mil.types.int32)
        for name in _input_names(model)
    }
    dense = options.head.dense if options.head else {}
    for name, width in dense.items():
        specs[name] = builder.TensorSpec(shape=(1, width), dtype=mil.types.fp32)
    with mil.Function(specs, opset_version=ct.target.iOS16) as function:
        ops = MilOperations(weights, builder)
        outputs = build_outputs(ops, model, options, _graph_inputs(function.inputs, dense))
        # The name of a variable is that of the output.
        function.set_outputs(
            [builder.identity(x=value, name=name) for name, value in outputs.items()]
        )
    program = mil.Program()
    program.add_function("main", function)
    return program


def evaluate(
    ct: Any, model: Any, weights: dict[str, np.ndarray], options: HeadOptions, batch: Batch
) -> Outputs:
    """Return the outputs of the MIL operators for a batch of one row, by constant evaluation."""
    builder, mil = ct.converters.mil.Builder, ct.converters.mil.mil
    with mil.Function({}, opset_version=ct.target.iOS16):
        ops = MilOperations(weights, builder)
        dense = options.head.dense if options.head else {}
        given = {
            name: builder.const(val=array.astype(np.float32 if name in dense else np.int32))
            for name, array in batch.items()
        }
        outputs = build_outputs(ops, model, options, _graph_inputs(given, dense))
        return {name: value.val for name, value in outputs.items()}


@contextmanager
def _coremltools() -> Iterator[Any]:
    """Import coremltools, and keep its hundreds of warnings and its bars off standard error.

    Off macOS it warns of each part of Core ML that it cannot load, and always of constants that
    it rounds to float32.
    """
    logger = logging.getLogger("coremltools")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        import coremltools  # type: ignore[import-not-found]

        with redirect_stderr(io.StringIO()):
            yield coremltools
    except ImportError as error:
        raise ImportError(
            f"{error.name} is not installed; install mlx-encoders[coreml] to write Core ML packages"
        ) from error
    finally:
        logger.setLevel(level)


def _graph_inputs(given: Mapping[str, Any], dense: Mapping[str, int]) -> GraphInputs:
    tokens = {name: value for name, value in given.items() if name not in dense}
    return GraphInputs(**tokens, dense={name: given[name] for name in dense})


def _input_names(model: Any) -> list[str]:
    names = ["input_ids", "attention_mask"]
    return [*names, "token_type_ids"] if isinstance(model.config, BertConfig) else names


def _rows(batch: Batch) -> list[Batch]:
    count = len(batch["input_ids"])
    return [{name: array[i : i + 1] for name, array in batch.items()} for i in range(count)]
