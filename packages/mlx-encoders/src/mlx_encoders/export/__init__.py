"""Export models to ONNX and Core ML, compared with MLX before a file is left."""

from mlx_encoders.export._operations import Operations, Value
from mlx_encoders.export.coreml import export_coreml
from mlx_encoders.export.encoders import GraphInputs
from mlx_encoders.export.heads import ExportHead, pool
from mlx_encoders.export.onnx_file import export_onnx
from mlx_encoders.export.report import CoreMLReport, ExportReport, Int8Report

__all__ = [
    "CoreMLReport",
    "ExportHead",
    "ExportReport",
    "GraphInputs",
    "Int8Report",
    "Operations",
    "Value",
    "export_coreml",
    "export_onnx",
    "pool",
]
