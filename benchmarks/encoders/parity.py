"""Compare random models of mlx-encoders and PyTorch, for `benchmarks/encoders_parity.py`."""

from collections.abc import Iterator

import mlx.core as mx
import numpy as np
import torch
from mlx.utils import tree_flatten

import mlx_encoders
from encoders.random_models import (
    LENGTH,
    Case,
    Family,
    counted,
    load_ours,
    make_inputs,
    random_model,
    run_mlx,
    run_torch,
)

PADDINGS = ("none", "right", "left")
HALF = {"float16": torch.float16, "bfloat16": torch.bfloat16}
Gradients = dict[str, np.ndarray]


def compare_task(family: Family, case: Case, spread: float) -> list[float | None]:
    """Return the differences without padding, with right, with left padding, and of gradients."""
    theirs = random_model(family, case, spread)
    ours = load_ours(theirs, case)
    found: list[float | None] = []
    for padding in PADDINGS:
        inputs = make_inputs(case, padding)
        skipped = padding == "left" and case.pools_padding
        found.append(
            None if skipped else _error(_mlx(ours, inputs), _torch(theirs, inputs), inputs)
        )
    cotangent = _cotangent(theirs, case)
    expected = _gradients_of_torch(theirs, case, cotangent)
    return [*found, _gradient_error(_gradients_of_mlx(ours, case, cotangent), expected)]


def compare_half(family: Family, case: Case, dtype: str) -> list[tuple[float, float] | None]:
    """Return the errors of MLX and of PyTorch in `dtype`, against PyTorch in float64.

    Without padding, with right, with left padding, and of gradients. The weights of all three are
    rounded to `dtype`, so that only the computation differs.
    """
    theirs, exact = (random_model(family, case, 0.1) for _ in range(2))
    ours = load_ours(theirs, case)
    ours.set_dtype(getattr(mx, dtype))
    # Parameters only: transformers, too, keeps the frequencies of rotary positions in float32.
    for parameter in theirs.parameters():
        parameter.data = parameter.data.to(HALF[dtype])
    for parameter in exact.parameters():
        parameter.data = parameter.data.to(HALF[dtype]).double()
    found: list[tuple[float, float] | None] = []
    for padding in PADDINGS:
        inputs = make_inputs(case, padding)
        if padding == "left" and case.pools_padding:
            found.append(None)
            continue
        expected = _torch(exact, inputs)
        results = (_mlx(ours, inputs), _torch(theirs, inputs))
        found.append(tuple(_error(each, expected, inputs) for each in results))  # type: ignore[arg-type]
    cotangent = _cotangent(exact, case).to(HALF[dtype])
    expected = _gradients_of_torch(exact, case, cotangent.double())
    mine = _gradients_of_mlx(ours, case, cotangent.float())
    peer = _gradients_of_torch(theirs, case, cotangent)
    return [*found, (_gradient_error(mine, expected), _gradient_error(peer, expected))]


def compare_other_arguments(family: Family) -> Iterator[tuple[str, str, float]]:
    """Yield the differences of the encoder with every other argument, and of its other outputs."""
    case = family.cases[0]
    theirs = random_model(family, case, 0.1)
    ours = load_ours(theirs, case)
    encoder = ours.encoder_model
    for padding in PADDINGS:
        inputs = make_inputs(case, padding)
        states, weights = _all_outputs(theirs, inputs)
        found = encoder.outputs(**inputs, output_hidden_states=True, output_attentions=True)
        assert found.hidden_states is not None
        assert found.attentions is not None
        errors = [
            _error(np.array(mine), state, inputs)
            for mine, state in zip(found.hidden_states, states, strict=True)
        ]
        yield case.title, f"all hidden states, padding {padding}", max(errors)
        queries = inputs["attention_mask"].astype(bool)
        errors = [
            np.abs(np.array(mine) - weight).transpose(0, 2, 1, 3)[queries].max()
            for mine, weight in zip(found.attentions, weights, strict=True)
        ]
        yield case.title, f"attention weights, padding {padding}", float(max(errors))
    if case.name == "NeoBERT":  # the derivation has no other arguments
        return
    inputs = make_inputs(case, "right")
    embeds = np.array(encoder.get_input_embeddings()(mx.array(inputs["input_ids"])))
    changes: dict[str, dict] = {
        "inputs_embeds": {"inputs_embeds": embeds, "input_ids": None},
        "position_ids": {"position_ids": 2 * np.arange(LENGTH)[None].repeat(3, axis=0)},
        "no attention_mask": {"attention_mask": None},
    }
    if case.name == "BertModel":
        changes["token_type_ids"] = {"token_type_ids": (inputs["input_ids"] > 20).astype(np.int64)}
    for name, change in changes.items():
        given = {key: value for key, value in {**inputs, **change}.items() if value is not None}
        mlx_given = dict(given)
        if name == "inputs_embeds":
            mlx_given[name] = mx.array(embeds)
        yield case.title, name, _error(_mlx(ours, mlx_given), _torch(theirs, given), inputs)


def _all_outputs(
    model: torch.nn.Module, inputs: dict[str, np.ndarray]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return the hidden states and the attention weights of every layer."""
    tensors = {name: torch.from_numpy(each.copy()) for name, each in inputs.items()}
    with torch.no_grad():
        if hasattr(model, "set_attn_implementation"):
            model.set_attn_implementation("eager")
            found = model(**tensors, output_hidden_states=True, output_attentions=True)
            states, weights = found.hidden_states, found.attentions
            model.set_attn_implementation("sdpa")
        else:
            states = model(*tensors.values())
            weights = [block.weights for block in model.transformer_encoder]
    return [each.numpy() for each in states], [each.numpy() for each in weights]


def _torch(model: torch.nn.Module, inputs: dict[str, np.ndarray]) -> np.ndarray:
    with torch.no_grad():
        found = run_torch(model, inputs)
    return found.double().numpy()


def _mlx(model: mlx_encoders.PretrainedModel, inputs: dict) -> np.ndarray:
    return np.array(run_mlx(model, inputs).astype(mx.float32))


def _error(found: np.ndarray, expected: np.ndarray, inputs: dict[str, np.ndarray]) -> float:
    return float(np.abs(found - expected)[counted(expected.shape, inputs)].max())


def _cotangent(model: torch.nn.Module, case: Case) -> torch.Tensor:
    """Return random weights of the outputs' sum; those of padding are 0."""
    inputs = make_inputs(case, "right")
    shape = _torch(model, inputs).shape
    cotangent = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    return cotangent * torch.from_numpy(counted(shape, inputs).copy())


def _gradients_of_torch(model: torch.nn.Module, case: Case, cotangent: torch.Tensor) -> Gradients:
    (run_torch(model, make_inputs(case, "right")) * cotangent).sum().backward()
    return {
        name: np.zeros(each.shape) if each.grad is None else each.grad.double().numpy()
        for name, each in model.named_parameters()
    }


def _gradients_of_mlx(
    model: mlx_encoders.PretrainedModel, case: Case, cotangent: torch.Tensor
) -> Gradients:
    inputs = make_inputs(case, "right")

    def loss(parameters: dict) -> mx.array:
        model.update(parameters)
        out = run_mlx(model, inputs)
        return (out * mx.array(cotangent.numpy()).astype(out.dtype)).sum()

    found = tree_flatten(mx.grad(loss)(model.trainable_parameters()))
    return {name: np.array(each.astype(mx.float32)) for name, each in found}


def _gradient_error(found: Gradients, expected: Gradients) -> float:
    """Return the largest difference of a gradient, relative to the largest entry of its tensor.

    Or to a hundredth of the largest of all, if that is more: the true gradient of BERT's key
    biases is 0, and relative to itself its rounding would count.
    """
    if absent := found.keys() - expected.keys():
        raise SystemExit(f"no reference gradient for {sorted(absent)}")
    largest = max(float(np.abs(each).max()) for each in expected.values())
    return max(
        float(np.abs(each - expected[name]).max())
        / max(1e-2 * largest, float(np.abs(expected[name]).max()))
        for name, each in found.items()
    )
