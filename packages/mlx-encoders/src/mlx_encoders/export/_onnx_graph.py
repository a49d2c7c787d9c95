"""Networks as ONNX graphs: standard operators of opset 17 to 20, float32, any batch and length."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlx_encoders.export.encoders import GraphInputs

if TYPE_CHECKING:
    import onnx

OPSETS = (17, 18, 19, 20)
_UNARY = {"relu": "Relu", "tanh": "Tanh", "sigmoid": "Sigmoid", "cos": "Cos", "sin": "Sin",
          "sqrt": "Sqrt", "exp": "Exp", "log": "Log", "softplus": "Softplus"}  # fmt: skip
_EXTERNAL_FROM = 1024  # bytes
_SQRT_HALF = 0.5**0.5
_TANH_GELU = (2 / np.pi) ** 0.5


class OnnxOperations:
    """The nodes and initializers of an ONNX graph; values are their names.

    Initializers have the names of the model's tensors. Those of linear layers are transposed.
    """

    lowest = float(np.finfo(np.float32).min)

    def __init__(self, weights: dict[str, np.ndarray], opset: int):
        self._weights = weights
        self._opset = opset
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: dict[str, np.ndarray] = {}

    def model(
        self,
        name: str,
        inputs: GraphInputs,
        outputs: dict[str, str],
        shapes: dict[str, list],
        data: Path | None,
    ) -> "onnx.ModelProto":
        """Return the model; shapes of outputs and dense inputs may have names of dimensions.

        Large initializers are written to the file `data`, if given: protobuf ends at 2 GiB.
        """
        from onnx import TensorProto, helper, numpy_helper

        nodes = [*self._nodes]
        nodes += [helper.make_node("Identity", [value], [key]) for key, value in outputs.items()]
        tokens = (inputs.input_ids, inputs.attention_mask, inputs.token_type_ids)
        given = [(each, TensorProto.INT64, ["batch", "length"]) for each in tokens if each]
        given += [(each, TensorProto.FLOAT, ["batch", shapes[each][1]]) for each in inputs.dense]
        graph = helper.make_graph(
            nodes,
            name,
            [helper.make_tensor_value_info(*each) for each in given],
            [helper.make_tensor_value_info(key, TensorProto.FLOAT, shapes[key]) for key in outputs],
            [numpy_helper.from_array(array, key) for key, array in self._initializers.items()]
            if data is None
            else self._external(data),
        )
        opsets = [helper.make_opsetid("", self._opset)]
        return helper.make_model(
            graph,
            opset_imports=opsets,
            # The oldest that has these operators, for older runtimes.
            ir_version=helper.find_min_ir_version_for(opsets),
            producer_name="mlx-encoders",
        )

    def _external(self, data: Path) -> "list[onnx.TensorProto]":
        from onnx import TensorProto, helper, numpy_helper

        tensors = []
        with data.open("wb") as file:
            for name, array in self._initializers.items():
                if array.nbytes < _EXTERNAL_FROM:
                    tensors.append(numpy_helper.from_array(array, name))
                    continue
                kind = helper.np_dtype_to_tensor_dtype(array.dtype)
                tensor = TensorProto(name=name, dims=array.shape, data_type=kind)
                tensor.data_location = TensorProto.EXTERNAL
                place = {"location": data.name, "offset": file.tell(), "length": array.nbytes}
                for key, value in place.items():
                    tensor.external_data.add(key=key, value=str(value))
                file.write(np.ascontiguousarray(array).data)
                tensors.append(tensor)
        return tensors

    def has(self, name: str) -> bool:
        return name in self._weights

    def weight(self, name: str) -> str:
        return self._initializer(name, self._weights[name])

    def constant(self, value: float) -> str:
        return self._initializer(f"constant/{value!r}", np.array(value, np.float32))

    def vector(self, values: np.ndarray) -> str:
        return self._initializer(f"vector/{len(self._initializers)}", values)

    def gather(self, rows: str, ids: str) -> str:
        return self._node("Gather", rows, ids, axis=0)

    def linear(self, x: str, name: str, weight: str | None = None) -> str:
        if weight is None:
            array = self._weights[f"{name}.weight"]
            matrix = self._initializer(f"{name}.weight", np.ascontiguousarray(array.T))
        else:  # shared with an embedding: no second copy
            matrix = self._node("Transpose", self.weight(weight), perm=[1, 0])
        product = self._node("MatMul", x, matrix)
        bias = f"{name}.bias"
        return self.add(product, self.weight(bias)) if self.has(bias) else product

    def layer_norm(self, x: str, name: str, eps: float) -> str:
        bias = [self.weight(f"{name}.bias")] if self.has(f"{name}.bias") else []
        gain = self.weight(f"{name}.weight")
        return self._node("LayerNormalization", x, gain, *bias, axis=-1, epsilon=eps)

    def activation(self, kind: str, x: str) -> str:
        if kind in _UNARY:
            return self._node(_UNARY[kind], x)
        if kind == "silu":
            return self.multiply(x, self._node("Sigmoid", x))
        if self._opset >= 20:
            return self._node("Gelu", x, approximate="none" if kind == "gelu" else "tanh")
        if kind == "gelu":
            inner = self._node("Erf", self.multiply(x, self.constant(_SQRT_HALF)))
        else:
            cube = self.multiply(self.multiply(x, x), x)
            inner = self.add(x, self.multiply(cube, self.constant(0.044715)))
            inner = self._node("Tanh", self.multiply(inner, self.constant(_TANH_GELU)))
        half = self.multiply(x, self.constant(0.5))
        return self.multiply(half, self.add(inner, self.constant(1.0)))

    def softmax(self, x: str) -> str:
        return self._node("Softmax", x, axis=-1)

    def add(self, a: str, b: str) -> str:
        return self._node("Add", a, b)

    def subtract(self, a: str, b: str) -> str:
        return self._node("Sub", a, b)

    def multiply(self, a: str, b: str) -> str:
        return self._node("Mul", a, b)

    def divide(self, a: str, b: str) -> str:
        return self._node("Div", a, b)

    def maximum(self, a: str, b: str) -> str:
        return self._node("Max", a, b)

    def matmul(self, a: str, b: str) -> str:
        return self._node("MatMul", a, b)

    def sum(self, x: str, axis: int, keep: bool = True) -> str:
        return self._node("ReduceSum", x, self._integers([axis]), keepdims=int(keep))

    def max(self, x: str, axis: int) -> str:
        if self._opset >= 18:
            return self._node("ReduceMax", x, self._integers([axis]), keepdims=0)
        return self._node("ReduceMax", x, axes=[axis], keepdims=0)

    def where(self, mask: str, a: str, b: str) -> str:
        return self._node("Where", mask, a, b)

    def either(self, a: str, b: str) -> str:
        return self._node("Or", a, b)

    def both(self, a: str, b: str) -> str:
        return self._node("And", a, b)

    def is_zero(self, x: str) -> str:
        return self._node("Equal", x, self.constant(0.0))

    def within(self, a: str, b: str, reach: int) -> str:
        distance = self._node("Abs", self.subtract(a, b))
        return self._node("LessOrEqual", distance, self._integer(reach))

    def to_bool(self, x: str) -> str:
        from onnx import TensorProto

        return self._node("Cast", x, to=TensorProto.BOOL)

    def to_float(self, x: str) -> str:
        from onnx import TensorProto

        return self._node("Cast", x, to=TensorProto.FLOAT)

    def split(self, x: str, sizes: list[int]) -> list[str]:
        return self._nodes_of("Split", len(sizes), x, self._integers(sizes), axis=-1)

    def concatenate(self, values: list[str]) -> str:
        return self._node("Concat", *values, axis=-1)

    def expand(self, x: str, axes: list[int]) -> str:
        return self._node("Unsqueeze", x, self._integers(axes))

    def squeeze(self, x: str, axis: int) -> str:
        return self._node("Squeeze", x, self._integers([axis]))

    def split_heads(self, x: str, heads: int, head_dim: int) -> str:
        x = self._node("Reshape", x, self._integers([0, 0, heads, head_dim]))
        return self._node("Transpose", x, perm=[0, 2, 1, 3])

    def merge_heads(self, x: str, width: int) -> str:
        x = self._node("Transpose", x, perm=[0, 2, 1, 3])
        return self._node("Reshape", x, self._integers([0, 0, width]))

    def swap_last(self, x: str) -> str:
        return self._node("Transpose", x, perm=[0, 1, 3, 2])

    def positions(self, ids: str) -> str:
        length = self._node("Gather", self._node("Shape", ids), self._integer(1), axis=0)
        return self._node("Range", self._integer(0), length, self._integer(1))

    def first_token(self, hidden: str) -> str:
        return self._node("Gather", hidden, self._integer(0), axis=1)

    def _node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        return self._nodes_of(kind, 1, *inputs, **attributes)[0]

    def _nodes_of(self, kind: str, count: int, *inputs: str, **attributes: Any) -> list[str]:
        from onnx import helper

        name = f"{kind}/{len(self._nodes)}"
        outputs = [f"{name}/{i}" for i in range(count)]
        self._nodes.append(helper.make_node(kind, inputs, outputs, name=name, **attributes))
        return outputs

    def _integer(self, value: int) -> str:
        return self._initializer(f"integer/{value}", np.array(value, np.int64))

    def _integers(self, values: list[int]) -> str:
        name = "integers/" + "_".join(map(str, values))
        return self._initializer(name, np.array(values, np.int64))

    def _initializer(self, name: str, array: np.ndarray) -> str:
        self._initializers.setdefault(name, array)
        return name
