"""Core ML programs, evaluated by coremltools on constants; nothing here runs Core ML itself."""

import re
import sys

import pytest

from mlx_encoders import build_model, load_model
from mlx_encoders.export import export_coreml
from mlx_encoders.tasks import TASK_CLASSES

# coremltools leaves a temporary folder of its own to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:Implicitly cleaning up:ResourceWarning")


def test_missing_coremltools_names_the_extra(fixtures, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "coremltools", None)
    model, _ = load_model(fixtures / "bert")
    message = "coremltools is not installed; install mlx-encoders[coreml] to write Core ML packages"
    with pytest.raises(ImportError, match=f"^{re.escape(message)}$"):
        export_coreml(model, tmp_path, length=16)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": 25}, "length must be 1 to 24, which the model takes; got 25"),
        (
            {"length": 8, "precision": "int8"},
            "precision must be float32 or float16, got 'int8'",
        ),
    ],
)
def test_wrong_options_are_refused(options, message, fixtures, tmp_path):
    model, _ = load_model(fixtures / "bert")
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        export_coreml(model, tmp_path, **options)


@pytest.fixture
def ct():
    return pytest.importorskip("coremltools", reason="needs mlx-encoders[coreml]")


def test_programs_compute_what_mlx_does_and_take_any_length(ct, tiny_config, tmp_path):
    report = export_coreml(build_model(tiny_config), tmp_path, length=40)
    assert report.max_difference < 1e-5
    spec = ct.utils.load_spec(str(report.path))
    for each in spec.description.input:
        array = each.type.multiArrayType
        ranges = [(size.lowerBound, size.upperBound) for size in array.shapeRange.sizeRanges]
        assert ranges == [(1, 1), (1, 40)]
    assert spec.description.output[0].name == "last_hidden_state"


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_embeddings_in_both_precisions(ct, precision, fixtures, tmp_path):
    model, _ = load_model(fixtures / "modernbert")
    path = tmp_path / "embed.mlpackage"
    options = {"pooling": "mean", "normalize": True, "length": 64}
    report = export_coreml(model, path, precision=precision, **options)
    assert report.path == path
    weights = (path / "Data/com.apple.CoreML/weights/weight.bin").stat().st_size
    # 26,400 parameters of 4 or 2 bytes
    assert 0.9 < weights / (26_400 * (4 if precision == "float32" else 2)) < 1.3


@pytest.mark.parametrize("name", sorted(name for name in TASK_CLASSES if "Choice" not in name))
def test_task_models_compute_what_mlx_does(ct, name, tmp_path):
    chosen = TASK_CLASSES[name]
    sizes = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
    }
    config = chosen.config_class(vocab_size=30, **sizes)
    report = export_coreml(build_model(config, model_class=chosen), tmp_path, length=40)
    assert report.max_difference < 1e-5
