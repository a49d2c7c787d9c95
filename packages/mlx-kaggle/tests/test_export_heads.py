"""The head of every task as a graph: onnxruntime and MLX give the same prediction.

Tolerance 1e-5: float32 on both sides, other orders of summation.
"""

import json

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_map

from mlx_encoders import load, load_task_model
from mlx_heads import fit_calibration
from mlx_kaggle import RunError
from mlx_kaggle.export.head_graph import export_head
from mlx_kaggle.export.huggingface import load_huggingface
from mlx_kaggle.export.network_folder import plain_encoder, write_network
from mlx_kaggle.members.model import Member
from mlx_kaggle.members.text import Experiment, predict_member
from mlx_kaggle.prediction.decision import Decision
from mlx_kaggle.settings.config import resolve_config
from mlx_kaggle.tables.competition import Competition
from mlx_kaggle.tables.files import take
from mlx_kaggle.training.job import prepare_job

TOLERANCE = 1e-5
WORDS = ("storm", "flood", "calm", "warm", "rain", "wind")
ORDERED = ["data.target=grade", "data.task=ordinal"]
VALUES = ["data.target=amount", "data.task=regression"]
SEVERAL = ["data.targets=amount:size", "data.task=regression"]
CASES = {
    "two classes": ["data.target=y"],
    "classes": ["data.target=grade", "data.task=multiclass"],
    "labels": ["data.targets=first:second", "data.task=multilabel"],
    "value": VALUES,
    "values": SEVERAL,
    "gaussian": [*VALUES, "loss.name=gaussian_nll"],
    "gaussians": [*SEVERAL, "loss.name=gaussian_nll"],
    "quantiles": [*SEVERAL, "loss.name=quantile"],
    "quantiles of one": [*VALUES, "loss.name=quantile", "head.words=false"],
    "corn": ORDERED,
    "coral": [*ORDERED, "loss.name=coral"],
    "logit": [*ORDERED, "loss.name=cumulative_logit"],
    "cloglog": [*ORDERED, "loss.name=cumulative_cloglog"],
    "ordered classes": [*ORDERED, "loss.name=cross_entropy"],
    "class numbers": [*ORDERED, "loss.name=mse"],
    "poolings": ["data.target=y", "head.pooling=cls+attention+max", "head.hidden_size=12"],
    "layers": ["data.target=y", "head.layer_mix=true", "encoder.num_hidden_layers=2"],
    "words alone": ["data.target=y", "head.numeric_features=false"],
    "text alone": ["data.target=y", "head.numeric_features=false", "head.words=false"],
    "corn of text alone": [*ORDERED, "head.numeric_features=false", "head.words=false"],
}


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> str:
    """Write a table with prose, numbers and a target of each task."""
    rng, lines = np.random.default_rng(0), ["id,note,age,place,y,grade,first,second,amount,size"]
    for number in range(80):
        note = " ".join(rng.choice(WORDS, 5)) + " over the hill, they all said again today."
        size = rng.gamma(2.0, 5.0)
        grade, y, second = number % 4 + 1, int(size > 8), int("rain" in note)
        lines.append(f"{number},{note!r},{rng.integers(1, 80)},{'ab'[number % 2]},{y},{grade},"
                     f"{y},{second},{3 * size + grade:.2f},{size:.2f}".replace("'", '"')
                     )  # fmt: skip
    path = tmp_path_factory.mktemp("table") / "train.csv"
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def prepared(table: str, tiny: list[str], overrides: list[str]) -> Experiment:
    """Return an untrained member with other weights than the first, which add nothing."""
    known = {part.partition("=")[0].removeprefix("data.") for part in overrides}
    unused = {"y", "grade", "first", "second", "amount", "size"} - known
    kinds = dict.fromkeys(unused, "ignored") | {"note": "text"}
    for part in overrides:
        for name in part.partition("=")[2].split(":"):
            kinds.pop(name, None)
    flags = {"data.train": table, "data.kinds": kinds}
    config = resolve_config("quick", flags=flags, overrides=[*tiny, *overrides])
    job = prepare_job(config)
    rows = take(job.table, job.splits[0][0])
    made = Experiment.prepare(config, job.competition, rows, seed=3)
    head, key = made.member.model.head, mx.random.key(7)
    head.update(tree_map(lambda x: x + 0.3 * mx.random.normal(x.shape, key=key), head.parameters()))
    made.member.model.eval()
    return made


@pytest.mark.parametrize("case", CASES)
def test_the_graph_of_a_head_predicts_as_mlx_does(case, table, tiny, tmp_path):
    pytest.importorskip("onnxruntime", reason="needs mlx-kaggle[onnx]")
    from mlx_encoders.export import export_onnx

    made = prepared(table, tiny, CASES[case])
    head = export_head(made.member, made.config, made.competition)
    words = "words" in head.dense
    assert words == (made.member.linear is not None and made.config.head.words)
    report = export_onnx(plain_encoder(made.member), tmp_path, head=head)
    assert report.max_difference < TOLERANCE * 10


def answers(member: Member, made: Experiment) -> np.ndarray:
    return predict_member(member, made.competition, made.train, made.config, tta=1)


@pytest.mark.parametrize("case", ["two classes", "text alone", "classes", "labels", "value"])
def test_bert_with_a_linear_layer_on_cls_is_a_class_of_transformers(case, table, tiny, tmp_path):
    alone = ["head.pooling=cls", "head.numeric_features=false", "head.words=false"]
    made = prepared(table, tiny, [*CASES[case], *alone])
    written = write_network(tmp_path, made.member, made.config, made.competition, "hf")
    assert "loads it as BertForSequenceClassification" in written.note
    assert not (tmp_path / "head.safetensors").exists()
    again = load_huggingface(tmp_path, made.member)
    np.testing.assert_allclose(answers(again, made), answers(made.member, made), rtol=1e-5)
    # As transformers computes it, through the pooler: the logits of the head.
    model, report = load_task_model(tmp_path)
    assert not report.missing
    ids = mx.array(np.random.default_rng(0).integers(0, 50, (3, 7)))
    logits, valid = np.array(model(ids)), mx.ones(ids.shape, mx.bool_)
    outputs = np.array(made.member.model(ids, valid))
    if made.competition.task == "binary":
        logits = logits[:, 1] - logits[:, 0]
        assert model.config.id2label == {0: "0", 1: "1"}
    np.testing.assert_allclose(logits.reshape(outputs.shape), outputs, atol=TOLERANCE)


@pytest.mark.parametrize("settings", [[], ["lora.preset=qlora_quality", "encoder.quantize=8"]],
                         ids=["float", "8 bits"])  # fmt: skip
def test_adapters_are_merged_and_quantized_weights_restored(
    settings, table, tiny, tiny_modernbert, tmp_path
):
    lora = [f"encoder.path={tiny_modernbert}", "lora.preset=balanced", *settings]
    made = prepared(table, tiny, ["data.target=y", *lora])
    made.member.model.encoder.update(
        tree_map(lambda x: x + 0.05, made.member.model.encoder.trainable_parameters())
    )
    expected = answers(made.member, made)
    write_network(tmp_path / "hf", made.member, made.config, made.competition, "hf")
    again = load_huggingface(tmp_path / "hf", made.member)
    np.testing.assert_allclose(answers(again, made), expected, atol=1e-4)
    merged, base = again.model.encoder, load(tiny_modernbert)[0]
    change = merged.layers[0].attn.Wqkv.weight - base.layers[0].attn.Wqkv.weight
    assert mx.abs(change).max() > 0.01


def test_a_link_without_a_graph_is_refused(table, tiny):
    made = prepared(table, tiny, [*ORDERED, "loss.name=cumulative_probit"])
    with pytest.raises(RunError, match=r"train with loss\.name=cumulative_logit"):
        export_head(made.member, made.config, made.competition)


DECISIONS = [
    ("binary", "accuracy", 2, "none", ()),
    ("binary", "f1", 2, "vector", (0.37,)),
    ("binary", "log_loss", 2, "isotonic", ()),
    ("multiclass", "accuracy", 3, "temperature", ()),
    ("multiclass", "log_loss", 3, "isotonic", ()),
    ("multilabel", "f1_macro", 3, "vector", (0.2, 0.5, float("inf"))),
    ("multilabel", "f1_macro", 3, "isotonic", ()),
    ("ordinal", "quadratic_kappa", 3, "none", ()),
    ("ordinal", "quadratic_kappa", 3, "temperature", (0.4, 1.3)),
    ("ordinal", "accuracy", 3, "vector", ()),
]


@pytest.mark.parametrize(("task", "metric", "size", "method", "thresholds"), DECISIONS)
def test_the_shipped_script_decides_as_mlx_kaggle(task, metric, size, method, thresholds):
    pytest.importorskip("onnxruntime", reason="needs mlx-kaggle[onnx]")
    from mlx_kaggle.export.predict import decide

    rng = np.random.default_rng(1)
    shares = rng.dirichlet(np.ones(size), 90)
    truth = rng.integers(0, size, 90)
    if task == "multilabel":
        shares, truth = rng.random((90, size)), rng.integers(0, 2, (90, size))
    shares = np.clip(shares + 0.4 * (truth if task == "multilabel" else np.eye(size)[truth]), 0, 2)
    shares = shares / (2 if task == "multilabel" else shares.sum(1, keepdims=True))
    calibration = fit_calibration(method, truth, shares, multilabel=task == "multilabel")
    assert calibration.method == method
    decision = Decision(calibration, thresholds)
    names = tuple("abc"[:size])
    competition = Competition(None, names, task, metric, names, None)  # type: ignore[arg-type]
    facts = {"task": task, "metric": metric, "classes": names}
    saved = json.loads(json.dumps(decision.to_dict()))
    expected, codes = decision.apply(competition, shares)
    found, labels = decide(facts, saved, shares)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    np.testing.assert_array_equal(labels, codes)


def test_intervals_are_widened_as_by_mlx_kaggle():
    pytest.importorskip("onnxruntime", reason="needs mlx-kaggle[onnx]")
    from mlx_kaggle.export.predict import decide

    bounds = np.random.default_rng(0).normal(size=(5, 2, 3))
    decision = Decision(interval_scale=1.7)
    competition = Competition(None, ("a", "b"), "regression", "rmse", (), None)  # type: ignore[arg-type]
    facts = {"task": "regression", "metric": "rmse", "classes": []}
    expected = decision.apply(competition, bounds)[0]
    np.testing.assert_array_equal(decide(facts, decision.to_dict(), bounds)[0], expected)
