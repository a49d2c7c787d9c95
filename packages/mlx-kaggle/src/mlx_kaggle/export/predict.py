"""Predict with the text member of a run as ONNX, without MLX.

    pip install mlx-tabtext tokenizers onnxruntime
    python predict.py test.csv answers.csv

`mlx-kaggle export --format onnx` writes this file beside the networks. `Member(folder).predict`
does the same to a table of columns.
"""

# pyright: reportMissingImports=false
import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

from mlx_tabtext import RowFeatures, Table, TableText, WordFeatures, read_table

BATCH = 64
LARGEST_LOG = 709.0  # exp of larger numbers overflows


class Network:
    """One network: from a table to probabilities, or values in the unit of the target."""

    def __init__(self, folder: Path, facts: dict[str, Any]):
        self.facts = facts
        counter = Tokenizer.from_file(str(folder / "tokenizer.json"))
        counter.no_truncation()
        counter.no_padding()
        self.tokenizer = Tokenizer.from_str(counter.to_str())
        self.tokenizer.enable_truncation(facts["max_tokens"])
        self.tokenizer.enable_padding(pad_id=facts["pad_token_id"])

        def count(texts: list[str]) -> list[int]:
            return [len(each) for each in counter.encode_batch(texts, add_special_tokens=False)]

        self.text = TableText.from_dict(_json(folder / "text.json"), count_tokens=count)
        features = _json(folder / "features.json")
        numbers, words = features["features"], features["words"]
        self.numbers = RowFeatures.from_dict(numbers) if numbers else None
        self.words = WordFeatures.from_dict(words) if words else None
        scaler = folder / "scaler.json"
        self.scaler = _json(scaler)["columns"] if scaler.is_file() else []
        options = onnxruntime.SessionOptions()
        # Threads that wait by spinning take the cores that other processes could use.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = onnxruntime.InferenceSession(
            str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )

    def predict(self, table: Table) -> np.ndarray:
        """Return (N, classes), (N, labels), (N,) or (N, targets), or (N, targets, 3) bounds."""
        count, seed = self.facts["texts_per_row"], self.facts["seed_of_texts"]
        texts = [self.text.transform(table)]
        if count > 1:
            texts = self.text.transform_tta(table, count=count, seed=seed)
        return combine([self._predict(each, table) for each in texts], self.facts["combine"])

    def _predict(self, texts: list[str], table: Table) -> np.ndarray:
        numbers = self.numbers.transform(table) if self.numbers else None
        words = self.words.transform(table) if self.words else None
        names = {each.name for each in self.session.get_inputs()}
        found = []
        for start in range(0, len(texts), BATCH):
            rows = slice(start, start + BATCH)
            encoded = self.tokenizer.encode_batch(texts[rows])
            inputs = {
                "input_ids": np.array([each.ids for each in encoded], np.int64),
                "attention_mask": np.array([each.attention_mask for each in encoded], np.int64),
                "token_type_ids": np.array([each.type_ids for each in encoded], np.int64),
            }
            inputs = {name: array for name, array in inputs.items() if name in names}
            if numbers is not None and "features" in names:
                inputs["features"] = numbers[rows]
            if words is not None and self.words:
                inputs["words"] = _dense(words, start, len(encoded), len(self.words.words))
            found.append(self.session.run(["prediction"], inputs)[0])
        outputs = np.concatenate(found).astype(np.float64)
        return self._inverse(outputs.reshape(len(outputs), *self.facts["row_shape"]))

    def _inverse(self, outputs: np.ndarray) -> np.ndarray:
        """Return values in the unit of the targets, of (N,), (N, targets) or (N, targets, 3)."""
        if not self.scaler:
            return outputs
        columns = np.moveaxis(outputs.reshape(len(outputs), len(self.scaler), -1), 1, 0)
        values = [_unscaled(each, z) for each, z in zip(self.scaler, columns, strict=True)]
        return np.stack(values, 1).reshape(outputs.shape)


class Member:
    """The text member of a run: the mean of its networks, then calibration and thresholds."""

    def __init__(self, folder: str | Path):
        folder = Path(folder)
        self.facts = _json(folder / "export.json")
        self.decision = _json(folder / "decision.json")
        self.networks = [Network(folder / each["folder"], self.facts) for each in
                         self.facts["networks"]]  # fmt: skip

    def predict(self, table: Table) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the prediction, and class numbers (N,) or labels (N, labels); None of values."""
        found = [each.predict(table) for each in self.networks]
        return decide(self.facts, self.decision, combine(found, self.facts["combine"]))

    def answers(self, table: Table) -> dict[str, list]:
        """Return the columns of an answer: ids, labels or values, probabilities or bounds."""
        prediction, codes = self.predict(table)
        facts, targets, classes = self.facts, self.facts["targets"], self.facts["classes"]
        found: dict[str, list] = {}
        if facts["id_column"] in table:
            found[facts["id_column"]] = list(table[facts["id_column"]])
        if codes is not None and facts["task"] == "multilabel":
            found |= {name: codes[:, n].tolist() for n, name in enumerate(classes)}
        elif codes is not None:
            found[targets[0]] = [classes[code] for code in codes]
        if codes is not None and prediction.ndim == 2:
            return found | {f"{n} probability": prediction[:, i].tolist() for i, n in
                            enumerate(classes)}  # fmt: skip
        if codes is not None:
            return found
        columns = prediction.reshape(len(prediction), len(targets), -1)
        for n, name in enumerate(targets):
            parts = zip((name, f"{name} lower", f"{name} upper"), columns[:, n].T, strict=False)
            found |= {each: values.tolist() for each, values in parts}
        return found


def decide(
    facts: dict[str, Any], decision: dict[str, Any], prediction: np.ndarray
) -> tuple[np.ndarray, np.ndarray | None]:
    """Apply calibration and thresholds, or the width of intervals."""
    if prediction.ndim == 3:
        value, factor = prediction[..., :1], float(decision["interval_scale"])
        return np.concatenate([value, value + factor * (prediction[..., 1:] - value)], 2), None
    if decision["calibration"]:
        prediction = calibrated(decision["calibration"], prediction)
    classes = len(facts["classes"])
    if not classes:
        return prediction, None
    thresholds = np.array([float(each) for each in decision["thresholds"]])
    if facts["task"] == "multilabel":
        return prediction, (prediction >= (thresholds if len(thresholds) else 0.5)).astype(int)
    expected = prediction if prediction.ndim == 1 else prediction @ np.arange(classes)
    if facts["task"] == "ordinal" and len(thresholds):
        return prediction, (expected[:, None] >= thresholds).sum(1)
    if len(thresholds):
        return prediction, (prediction[:, 1] >= thresholds[0]).astype(int)
    if prediction.ndim == 1 or facts["metric"] in ("quadratic_kappa", "mae"):
        return prediction, np.clip(np.rint(expected), 0, classes - 1).astype(int)
    return prediction, prediction.argmax(1)


def combine(predictions: Sequence[np.ndarray], how: str) -> np.ndarray:
    """Return the mean of predictions, or that of their log(1 + value)."""
    stacked = np.stack(list(predictions))
    return stacked.mean(0) if how == "mean" else np.expm1(np.log1p(stacked).mean(0))


def calibrated(calibration: dict[str, Any], probability: np.ndarray) -> np.ndarray:
    """Return calibrated probabilities; `scale * logit + bias`, or a curve for each column."""
    method, kind = calibration["method"], calibration["kind"]
    if method == "none":
        return probability
    columns = probability[:, 1:] if kind == "binary" else probability
    if method == "isotonic":
        curves = zip(columns.T, calibration["curves"], strict=True)
        mapped = np.stack([x if curve is None else np.interp(x, *curve) for x, curve in curves], 1)
        mapped = mapped / mapped.sum(1, keepdims=True) if kind == "multiclass" else mapped
    else:
        epsilon = np.finfo(np.float64).eps
        known = np.log(np.clip(columns, epsilon, 1 - epsilon))
        if kind != "multiclass":
            known = known - np.log1p(-np.clip(columns, epsilon, 1 - epsilon))
        logits = known * np.array(calibration["scale"]) + np.array(calibration["bias"])
        if kind == "multiclass":
            powers = np.exp(logits - logits.max(1, keepdims=True))
            mapped = powers / powers.sum(1, keepdims=True)
        else:
            mapped = 1 / (1 + np.exp(-logits))
    return np.concatenate([1 - mapped, mapped], 1) if kind == "binary" else mapped


def _unscaled(scaler: dict[str, Any], outputs: np.ndarray) -> np.ndarray:
    values = outputs * scaler["scale"] + scaler["mean"]
    if scaler["target_transform"] != "log1p":
        return values
    lowest = scaler["minimum"] / 10 if scaler["minimum"] >= 0 else -1.0
    highest = 10 * max(scaler["maximum"], 0.0)
    return np.clip(np.expm1(np.minimum(values, LARGEST_LOG)), lowest, highest)


def _dense(words: tuple[np.ndarray, ...], start: int, rows: int, width: int) -> np.ndarray:
    """Return rows of a sparse matrix as a dense one."""
    values, columns, starts = words
    found = np.zeros((rows, width), np.float32)
    for row in range(rows):
        part = slice(starts[start + row], starts[start + row + 1])
        found[row, columns[part]] = values[part]
    return found


def _json(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


def main(table: str, answers: str) -> None:
    """Write the answers for a table as CSV."""
    member = Member(Path(__file__).parent)
    columns = member.answers(read_table(table, separator=member.facts["separator"]))
    with Path(answers).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python predict.py TABLE ANSWERS.csv")
    main(*sys.argv[1:])
