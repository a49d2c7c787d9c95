"""Compare random models of mlx-encoders and PyTorch, for `benchmarks/encoders_parity.py`."""

import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import mlx.core as mx
import numpy as np
import torch
import transformers
from mlx.utils import tree_flatten
from safetensors.torch import save_file

import mlx_encoders
from neobert_torch import NeoBERT, NeoBERTForSequenceClassification, NeoBERTLMHead

LENGTH = 40  # of ModernBERT more than twice its window of 2 * 8 + 1
SIZES = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4}
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1,
           "sep_token_id": 2}  # fmt: skip
NEOBERT = {**SIZES, "model_type": "neobert", "intermediate_size": 44, "norm_eps": 1e-5,
           "max_length": 64, "pad_token_id": 0}  # fmt: skip
DTYPES = (("float32", torch.float32), ("float16", torch.float16), ("bfloat16", torch.bfloat16))


@dataclass(frozen=True)
class Case:
    """A class and the fields that differ from the defaults."""

    name: str
    changes: dict = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The class, and the value that distinguishes the case."""
        kind = {"tie_word_embeddings": "untied", "classifier_pooling": "mean"}
        marks = [mark for key, mark in kind.items() if key in self.changes]
        return f"{self.name} ({marks[0]})" if marks else self.name


@dataclass(frozen=True)
class Family:
    """An encoder, how PyTorch makes a model of it, and its cases; the first is the encoder."""

    make: Callable[[Case], torch.nn.Module]
    cases: tuple[Case, ...]


def _transformers(config_class: type, values: dict) -> Callable[[Case], torch.nn.Module]:
    def make(case: Case) -> torch.nn.Module:
        return getattr(transformers, case.name)(config_class(**values, **case.changes))

    return make


def _tasks(family: str) -> tuple[Case, ...]:
    names = ("Model", "ForMaskedLM", "ForTokenClassification", "ForQuestionAnswering",
             "ForMultipleChoice")  # fmt: skip
    found = [Case(family + name) for name in names]
    found.append(Case(f"{family}ForMaskedLM", {"tie_word_embeddings": False}))
    found.append(Case(f"{family}ForSequenceClassification", {"num_labels": 3}))
    return tuple(found)


def _neobert(case: Case) -> torch.nn.Module:
    kinds = (NeoBERT, NeoBERTLMHead, NeoBERTForSequenceClassification)
    kind = next(each for each in kinds if each.__name__ == case.name)
    return kind({**NEOBERT, **case.changes})


FAMILIES = (
    Family(
        _transformers(transformers.BertConfig, {**SIZES, "intermediate_size": 48}),
        (*_tasks("Bert"), Case("BertForNextSentencePrediction")),
    ),
    Family(
        _transformers(
            transformers.ModernBertConfig,
            {**SIZES, **SPECIAL, "intermediate_size": 24, "local_attention": 16},
        ),
        (
            *_tasks("ModernBert"),
            Case("ModernBertForSequenceClassification", {"classifier_pooling": "mean"}),
        ),
    ),
    Family(
        _neobert,
        (
            Case("NeoBERT"),
            Case("NeoBERTLMHead"),
            Case("NeoBERTForSequenceClassification", {"num_labels": 3}),
        ),
    ),
)


def compare_task(family: Family, case: Case, spread: float) -> list[float | None]:
    """Return the differences without padding, with right, with left padding, and of gradients."""
    theirs = _random(family.make(case), spread)
    ours = _load(theirs, case)
    differences: list[float | None] = []
    for padding in ("none", "right", "left"):
        if padding == "left" and case.title == "ModernBertForSequenceClassification":
            differences.append(None)  # transformers pools the state of padding here
            continue
        inputs = _inputs(case, padding)
        with torch.no_grad():
            expected = _run_torch(theirs, case, inputs)
        found = np.array(_run_mlx(ours, inputs))
        differences.append(
            float(np.abs(found - expected.numpy())[_counted(expected, inputs)].max())
        )
    return [*differences, _gradients(theirs, ours, case)]


def compare_dtypes(family: Family) -> Iterator[list[str]]:
    """Yield the errors of the encoder in each dtype, against PyTorch in float64."""
    case = family.cases[0]
    exact = _random(family.make(case), 0.1).double()
    for padding in ("right", "left"):
        inputs = _inputs(case, padding)
        counted = inputs["attention_mask"].astype(bool)
        with torch.no_grad():
            expected = _run_torch(exact, case, inputs).numpy()
        for name, dtype in DTYPES:
            theirs = _random(family.make(case), 0.1)
            ours = _load(theirs, case)
            ours.set_dtype(getattr(mx, name))
            found = np.array(_run_mlx(ours, inputs).astype(mx.float32))
            mine = np.abs(found - expected)[counted].max()
            try:
                with torch.no_grad():
                    other = _run_torch(theirs.to(dtype), case, inputs).float().numpy()
                peer = f"{np.abs(other - expected)[counted].max():.1e}"
            except RuntimeError:  # no complex numbers of two bytes
                peer = "not possible"
            yield [case.name, padding, name, f"{mine:.1e}", peer]


def round_trips(family: Family) -> Iterator[list[str]]:
    """Yield the differences of folders that mlx-encoders saved and others load."""
    for case in family.cases:
        theirs = _random(family.make(case), 0.1)
        ours = _load(theirs, case)
        inputs = _inputs(case, "right")
        folder = Path(tempfile.mkdtemp())
        ours.save_pretrained(folder)
        expected = np.array(_run_mlx(ours, inputs))
        counted = _counted(torch.from_numpy(expected), inputs)
        if isinstance(theirs, transformers.PreTrainedModel):
            again = type(theirs).from_pretrained(folder).eval()
            with torch.no_grad():
                found = _run_torch(again, case, inputs).numpy()
            yield [case.title, "transformers", f"{np.abs(found - expected)[counted].max():.1e}"]
        if case.name in ("BertModel", "ModernBertModel"):
            yield [case.title, "mlx-embeddings", _mlx_embeddings(folder, inputs, expected, counted)]


def real_model(folder: Path) -> Iterator[str]:
    """Yield lines on a pretrained MiniLM."""
    texts = ["A woman.", "Forest fire near La Ronge Sask. Canada", "13,000 people receive orders"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = transformers.AutoModel.from_pretrained(folder).eval()(**batch)
    ours, our_tokenizer = mlx_encoders.load(folder)
    padded = our_tokenizer.pad(our_tokenizer.encode(texts), multiple=1)
    same = bool((padded["input_ids"] == batch["input_ids"].numpy()).all())
    hidden = ours(**padded)
    difference = np.abs(np.array(hidden) - expected.last_hidden_state.numpy())
    yield f"token ids equal: {same}"
    yield f"hidden states: {difference[padded['attention_mask']].max():.1e}"
    pooled = np.abs(np.array(ours.pooled(hidden)) - expected.pooler_output.numpy()).max()
    yield f"pooled output: {pooled:.1e}"


def _random(model: torch.nn.Module, spread: float) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        noise = spread * torch.randn(parameter.shape, generator=generator)
        parameter.data = 1 + noise if parameter.ndim == 1 and parameter.data.mean() == 1 else noise
    return model.eval()


def _load(theirs: torch.nn.Module, case: Case) -> mlx_encoders.PretrainedModel:
    """Return our model of the folder that PyTorch's model is saved to."""
    folder = Path(tempfile.mkdtemp())
    if isinstance(theirs, transformers.PreTrainedModel):
        theirs.save_pretrained(folder)
    else:
        state = {name: value.contiguous() for name, value in theirs.state_dict().items()}
        save_file(state, folder / "model.safetensors")
        labels = {str(i): str(i) for i in range(case.changes.get("num_labels", 2))}
        values = {**NEOBERT, "architectures": [case.name], "id2label": labels}
        (folder / "config.json").write_text(json.dumps(values))
    if case.name in mlx_encoders.TASK_CLASSES:
        return mlx_encoders.load_task_model(folder)[0]
    return mlx_encoders.load_model(folder)[0]


def _inputs(case: Case, padding: str) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(3)
    ids = generator.integers(3, 50, (3, LENGTH))
    lengths = {"none": [LENGTH] * 3}.get(padding, [LENGTH, LENGTH // 2, 1])
    valid = np.arange(LENGTH) < np.array(lengths)[:, None]
    valid = valid[:, ::-1] if padding == "left" else valid
    found = {"input_ids": ids * valid, "attention_mask": valid.astype(np.int64)}
    if case.name.endswith("Choice"):
        found = {name: np.stack([each, each[::-1]], axis=1) for name, each in found.items()}
    return found


def _run_torch(model: torch.nn.Module, case: Case, inputs: dict[str, np.ndarray]) -> torch.Tensor:
    ids, mask = (torch.from_numpy(each.copy()) for each in inputs.values())
    if not isinstance(model, transformers.PreTrainedModel):
        found = model(ids, mask)
        return found[-1] if isinstance(found, list) else found
    found = model(input_ids=ids, attention_mask=mask)
    if "start_logits" in found:
        return torch.stack([found.start_logits, found.end_logits], dim=-1)
    return found.logits if "logits" in found else found.last_hidden_state


def _run_mlx(model: mlx_encoders.PretrainedModel, inputs: dict[str, np.ndarray]) -> mx.array:
    found = model(**inputs)
    return mx.stack(found, axis=-1) if isinstance(found, tuple) else found


def _counted(output: torch.Tensor, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """Return which entries count: those of padding do not."""
    mask = inputs["attention_mask"].astype(bool)
    if output.ndim == 3 and output.shape[:2] == mask.shape:
        return np.broadcast_to(mask[..., None], output.shape)
    return np.ones(output.shape, bool)


def _gradients(theirs: torch.nn.Module, ours: mlx_encoders.PretrainedModel, case: Case) -> float:
    """Return the largest difference of a gradient, relative to the largest entry of its tensor.

    Or to a hundredth of the largest of all, if that is more.
    """
    inputs = _inputs(case, "right")
    expected = _run_torch(theirs, case, inputs)
    cotangent = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    cotangent = cotangent * torch.from_numpy(_counted(expected, inputs).copy())
    (expected * cotangent).sum().backward()

    def loss(parameters: dict) -> mx.array:
        ours.update(parameters)
        return (_run_mlx(ours, inputs) * mx.array(cotangent.numpy())).sum()

    found = dict(tree_flatten(mx.grad(loss)(ours.trainable_parameters())))
    # The true gradient of BERT's key biases is 0: relative to itself its rounding would count.
    largest = max(
        float(each.grad.abs().max()) for each in theirs.parameters() if each.grad is not None
    )
    compared, worst = 0, 0.0
    for name, parameter in theirs.named_parameters():
        if name not in found:  # a tied copy
            continue
        gradient = parameter.grad
        reference = np.zeros(parameter.shape) if gradient is None else gradient.numpy()
        scale = max(1e-2 * largest, float(np.abs(reference).max()))
        worst = max(worst, float(np.abs(np.array(found[name]) - reference).max()) / scale)
        compared += 1
    if compared < len(found):
        raise SystemExit(f"{case.title}: {compared} of {len(found)} gradients have a reference")
    return worst


def _mlx_embeddings(
    folder: Path, inputs: dict[str, np.ndarray], expected: np.ndarray, counted: np.ndarray
) -> str:
    try:
        from mlx_embeddings.utils import load_model
    except ImportError:
        return "not installed"
    found = load_model(folder)
    model = found[0] if isinstance(found, tuple) else found
    mask = mx.array(inputs["attention_mask"])
    output = model(mx.array(inputs["input_ids"]), attention_mask=mask)
    hidden = np.array(output.last_hidden_state)
    if hidden.ndim == 2:  # of ModernBERT it returns the first token's only
        return f"{np.abs(hidden - expected[:, 0]).max():.1e}"
    return f"{np.abs(hidden - expected)[counted].max():.1e}"
