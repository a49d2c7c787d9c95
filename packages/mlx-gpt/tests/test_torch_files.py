"""torch's files are read without torch, and their pickles do nothing but name tensors."""

import io
import os
import pickle
import re
import sys
import types
import zipfile
from collections import OrderedDict
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlx_gpt.models.pickles import read_torch_file

FIXTURES = Path(__file__).parent / "fixtures"


class Storage:
    """Numbers, pickled as torch pickles a storage: by the name of their type and of their file."""

    def __init__(self, kind: type, key: str, numbers: np.ndarray, count: int | None = None):
        self.kind, self.key, self.numbers = kind, key, numbers
        self.count = numbers.size if count is None else count


class Tensor:
    """What makes a tensor of a storage, pickled as torch does it."""

    def __init__(self, *arguments):
        self.arguments = arguments

    def __reduce__(self):
        rebuild = sys.modules["torch._utils"]._rebuild_tensor_v2
        return rebuild, (*self.arguments, False, OrderedDict())


class TorchPickler(pickle.Pickler):
    def persistent_id(self, obj):
        if isinstance(obj, Storage):
            return "storage", obj.kind, obj.key, "cpu", obj.count
        return None


@pytest.fixture
def kinds(monkeypatch) -> dict[str, type]:
    """Types of storages by name; what a pickle names of torch can be imported meanwhile."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    names = ["FloatStorage", "HalfStorage", "BFloat16Storage", "DoubleStorage", "LongStorage"]
    names += ["IntStorage", "BoolStorage", "QInt8Storage"]
    for name in names:
        setattr(torch, name, type(name, (), {"__module__": "torch"}))

    def rebuild():
        raise AssertionError("named only")

    rebuild.__module__, rebuild.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = rebuild
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)
    return vars(torch)


def write(path: Path, content: object, storages: list[Storage] = (), byteorder="little") -> Path:
    """Write what `torch.save` does, of `content` whatever it is."""
    buffer = io.BytesIO()
    TorchPickler(buffer, protocol=2).dump(content)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", buffer.getvalue())
        archive.writestr("model/byteorder", byteorder)
        for storage in storages:
            archive.writestr(f"model/data/{storage.key}", storage.numbers.tobytes())
    return path


def refused(path: Path, problem: str) -> None:
    message = f"{path}: not tensors from torch.save: {problem}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        read_torch_file(path)


def test_a_file_of_torch_has_the_tensors_that_torch_put_in():
    tensors = read_torch_file(FIXTURES / "nanochat_2025/model_000005.pt")
    prefix = "_orig_mod.transformer"
    assert len(tensors) == 14
    assert tensors[f"{prefix}.wte.weight"].shape == (320, 16)
    assert tensors[f"{prefix}.wte.weight"].dtype == mx.bfloat16
    # As make_fixtures_gpt.py drew them, in the order of nanochat's parameters.
    drawn = np.random.default_rng(3).normal(size=(320, 16)) / 4
    rounded = mx.array(drawn.astype(np.float32)).astype(mx.bfloat16)
    assert mx.array_equal(tensors[f"{prefix}.wte.weight"], rounded)
    assert tensors[f"{prefix}.h.1.mlp.c_proj.weight"].dtype == mx.float32


@pytest.mark.parametrize(
    ("kind", "stored", "dtype"),
    [
        ("FloatStorage", np.float32, mx.float32),
        ("HalfStorage", np.float16, mx.float16),
        ("DoubleStorage", np.float64, mx.float32),
        ("LongStorage", np.int64, mx.int64),
        ("IntStorage", np.int32, mx.int32),
        ("BoolStorage", np.bool_, mx.bool_),
    ],
)
def test_numbers_of_every_type_are_read(tmp_path, kinds, kind, stored, dtype):
    storage = Storage(kinds[kind], "0", np.array([0, 1, 3], stored))
    path = write(tmp_path / "a.pt", {"x": Tensor(storage, 0, (3,), (1,))}, [storage])
    got = read_torch_file(path)["x"]
    assert got.dtype == dtype
    assert got.tolist() == storage.numbers.tolist()


def test_bfloat16_is_read_bit_for_bit(tmp_path, kinds):
    numbers = mx.array([1.0, -2.5, 3e38, 1e-40, float("inf")]).astype(mx.bfloat16)
    storage = Storage(kinds["BFloat16Storage"], "0", np.array(numbers.view(mx.uint16)))
    path = write(tmp_path / "a.pt", {"x": Tensor(storage, 0, (5,), (1,))}, [storage])
    got = read_torch_file(path)["x"]
    assert got.dtype == mx.bfloat16
    assert got.view(mx.uint16).tolist() == numbers.view(mx.uint16).tolist()


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(shape=st.lists(st.integers(0, 4), max_size=3), order=st.randoms(), offset=st.integers(0, 5))
def test_views_are_read_as_numpy_sees_them(tmp_path, kinds, shape, order, offset):
    axes = list(range(len(shape)))
    order.shuffle(axes)
    numbers = np.arange(offset + int(np.prod(shape)) + 2, dtype=np.float32)
    view = numbers[offset : offset + int(np.prod(shape))].reshape(shape).transpose(axes)
    strides = tuple(stride // 4 for stride in view.strides)
    storage = Storage(kinds["FloatStorage"], "0", numbers)
    tensors = {
        "x": Tensor(storage, offset, view.shape, strides),
        "y": Tensor(storage, 0, (1,), (1,)),
    }
    got = read_torch_file(write(tmp_path / "a.pt", tensors, [storage]))
    assert got["x"].shape == view.shape
    assert np.array_equal(np.array(got["x"]), view)
    assert got["y"].tolist() == [0]


@pytest.mark.parametrize(
    ("offset", "shape", "strides"),
    [(0, (5,), (1,)), (1, (4,), (1,)), (0, (2, 2), (3, 1)), (-1, (2,), (1,)), (0, (2,), (-1,))],
)
def test_a_tensor_outside_of_its_numbers_is_refused(tmp_path, kinds, offset, shape, strides):
    storage = Storage(kinds["FloatStorage"], "0", np.zeros(4, np.float32))
    path = write(tmp_path / "a.pt", {"x": Tensor(storage, offset, shape, strides)}, [storage])
    refused(path, "a tensor lies outside of its storage")


class Runs:
    """Pickles into a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def test_nothing_that_a_pickle_names_is_called(tmp_path):
    witness = tmp_path / "witness"
    path = write(tmp_path / "a.pt", {"x": Runs(os.mkdir, str(witness))})
    refused(path, f"it names {os.mkdir.__module__}.mkdir, which is not allowed")
    assert not witness.exists()


@pytest.mark.parametrize("function", [eval, getattr, io.open, pickle.loads, __import__])
def test_no_other_function_may_be_named(tmp_path, function):
    path = write(tmp_path / "a.pt", Runs(function, "1", "2"))
    with pytest.raises(
        ValueError, match=r"a\.pt: not tensors .*: it names \S+, which is not allowed$"
    ):
        read_torch_file(path)


def test_numbers_of_an_unknown_type_are_refused(tmp_path, kinds):
    storage = Storage(kinds["QInt8Storage"], "0", np.zeros(4, np.int8))
    path = write(tmp_path / "a.pt", {"x": Tensor(storage, 0, (4,), (1,))}, [storage])
    refused(path, "it names torch.QInt8Storage, which is not allowed")


def test_too_few_numbers_are_refused(tmp_path, kinds):
    storage = Storage(kinds["FloatStorage"], "0", np.zeros(4, np.float32), count=5)
    path = write(tmp_path / "a.pt", {"x": Tensor(storage, 0, (4,), (1,))}, [storage])
    refused(path, "model/data/0 has 16 bytes, not 20")


def test_big_endian_numbers_are_refused(tmp_path):
    refused(write(tmp_path / "a.pt", {}, byteorder="big"), "its numbers are big-endian")


def test_what_is_no_dict_of_tensors_is_refused(tmp_path):
    path = write(tmp_path / "a.pt", [1, 2])
    with pytest.raises(ValueError, match=r"a\.pt contains a list, not a dict of tensors$"):
        read_torch_file(path)
    path = write(tmp_path / "b.pt", {"step": 3})
    with pytest.raises(ValueError, match=r"b\.pt: step is a int, not a tensor$"):
        read_torch_file(path)


def test_what_is_no_archive_of_torch_is_refused(tmp_path):
    path = tmp_path / "a.pt"
    with pytest.raises(FileNotFoundError, match=r"a\.pt: no such file$"):
        read_torch_file(path)
    path.write_bytes(pickle.dumps({}))  # as torch wrote before version 1.6
    refused(path, "File is not a zip file")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/other", "")
    refused(path, "it has no data.pkl")


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.binary(max_size=40))
def test_any_damaged_pickle_is_one_clear_error(tmp_path, garbage):
    path = tmp_path / "a.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", b"\x80\x02" + garbage)
    with pytest.raises(ValueError, match=r"^\S+a\.pt"):
        read_torch_file(path)
