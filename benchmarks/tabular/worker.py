"""Fit one model to one table; write its predictions, print its seconds and memory."""

import json
import resource
import sys
import time
import warnings
from pathlib import Path

import numpy as np

QUICK = {"max_epochs": 5}
# What both TabM are given: the settings of mlx-kaggle, a fifth of the time of the authors'.
SETTINGS = {"k": 16, "d_block": 128, "d_embedding": 8, "batch_size": 256, "patience": 8,
            "max_epochs": 200}  # fmt: skip
VALIDATION = 0.15


def main() -> None:
    folder, facts = Path(sys.argv[1]), json.loads(sys.argv[2])
    with np.load(folder / "table.npz") as file:
        table = dict(file)
    held = hold_out(len(table["y"]), facts["seed"])
    settings = SETTINGS | (QUICK if facts["quick"] else {})
    settings |= {"seed": facts["seed"], "threads": facts["threads"]}
    predict = {
        "mlx-tabular": ours,
        "torch TabM": authors,
        "HistGradientBoosting": trees,
        "MLP": perceptron,
    }[facts["model"]]
    start = time.perf_counter()
    predicted, more = predict(table, held, facts["classes"], settings)
    more["seconds"] = time.perf_counter() - start
    np.save(folder / "predicted.npy", predicted)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 10)
    print(json.dumps(more | {"memory_mib": memory}))


def hold_out(rows: int, seed: int) -> np.ndarray:
    """Return the same rows to stop early on for both TabM."""
    held = np.zeros(rows, bool)
    held[np.random.default_rng(seed).permutation(rows)[: int(rows * VALIDATION)]] = True
    return held


def ours(table: dict, held: np.ndarray, classes: bool, settings: dict) -> tuple[np.ndarray, dict]:
    import mlx_fastcpu
    from mlx_tabular import TabularClassifier, TabularRegressor

    mlx_fastcpu.activate(threads=settings.pop("threads"))
    kind = TabularClassifier if classes else TabularRegressor
    model = kind(categorical_features=table["categorical"], **settings)
    x, y = table["x"], table["y"]
    started = time.perf_counter()
    model.fit(x[~held], y[~held], validation=(x[held], y[held]))
    seconds = (time.perf_counter() - started) / len(model.history_)
    found = model.predict_proba(table["x_test"]) if classes else model.predict(table["x_test"])
    return found, {"epochs": len(model.history_), "epoch_seconds": seconds}


def authors(
    table: dict, held: np.ndarray, classes: bool, settings: dict
) -> tuple[np.ndarray, dict]:
    """Train as the authors' example does: their preprocessing, AdamW, clipping and stopping."""
    import rtdl_num_embeddings
    import tabm
    import torch
    from sklearn.preprocessing import OrdinalEncoder, QuantileTransformer

    warnings.simplefilter("ignore")
    torch.set_num_threads(settings["threads"])
    torch.manual_seed(settings["seed"])
    x, y, categorical = table["x"], table["y"], table["categorical"]
    numbers = x[~held][:, ~categorical]
    missing = np.isnan(numbers).any(0)
    varied = np.nanmin(numbers, 0) < np.nanmax(numbers, 0)
    noise = np.random.default_rng(settings["seed"]).normal(0, 1e-5, numbers[:, varied].shape)
    count = max(min(len(numbers) // 30, 1000), 10)
    transform = QuantileTransformer(
        n_quantiles=count, output_distribution="normal", subsample=10**9
    ).fit(numbers[:, varied] + noise)
    encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    encoder.fit(x[~held][:, categorical])
    sizes = [len(each) + 1 for each in encoder.categories_] if categorical.any() else []
    sizes += [2] * int(missing.sum())

    def inputs(rows: np.ndarray) -> tuple:
        values = rows[:, ~categorical]
        num = np.nan_to_num(transform.transform(values[:, varied])).astype(np.float32)
        cat = np.isnan(values[:, missing]).astype(np.int64)
        if categorical.any():
            codes = encoder.transform(rows[:, categorical]).astype(np.int64)
            codes = np.where(codes < 0, np.array(sizes[: codes.shape[1]]) - 1, codes)
            cat = np.concatenate([codes, cat], 1)
        return torch.tensor(num), torch.tensor(cat) if cat.shape[1] else None

    mean, scale = (0.0, 1.0) if classes else (y[~held].mean(), y[~held].std())
    targets = torch.tensor(y if classes else (y - mean) / scale)
    targets = targets.long() if classes else targets.float()
    started = time.perf_counter()
    train, valid = inputs(x[~held]), inputs(x[held])
    bins = rtdl_num_embeddings.compute_bins(train[0], 48)
    model = tabm.TabM.make(
        n_num_features=train[0].shape[1],
        cat_cardinalities=sizes,
        d_out=int(y.max()) + 1 if classes else 1,
        num_embeddings=rtdl_num_embeddings.PiecewiseLinearEmbeddings(
            bins, settings["d_embedding"], activation=False, version="B"
        ),
        k=settings["k"],
        d_block=settings["d_block"],
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=3e-4)
    y_train, y_valid = targets[~held], targets[held]

    def loss_of(outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        y = y.repeat_interleave(settings["k"])
        if classes:
            return torch.nn.functional.cross_entropy(outputs.flatten(0, 1), y)
        return torch.nn.functional.mse_loss(outputs.flatten(), y)

    @torch.inference_mode()
    def predict(parts: tuple) -> torch.Tensor:
        model.eval()
        num, cat = parts
        outputs = torch.cat(
            [
                model(num[i : i + 1024], None if cat is None else cat[i : i + 1024])
                for i in range(0, len(num), 1024)
            ]
        )
        return outputs.softmax(-1).mean(1) if classes else outputs.mean(1)[:, 0]

    best, best_epoch, kept = float("inf"), 0, None
    for epoch in range(1, settings["max_epochs"] + 1):
        model.train()
        for index in torch.randperm(len(y_train)).split(settings["batch_size"]):
            cat = None if train[1] is None else train[1][index]
            loss = loss_of(model(train[0][index], cat), y_train[index])
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        found = predict(valid)
        if classes:
            now = float(torch.nn.functional.nll_loss(found.clamp_min(1e-12).log(), y_valid))
        else:
            now = float(torch.nn.functional.mse_loss(found, y_valid))
        if now < best:
            best, best_epoch = now, epoch
            kept = {name: value.clone() for name, value in model.state_dict().items()}
        if epoch - best_epoch >= settings["patience"]:
            break
    seconds = (time.perf_counter() - started) / epoch
    model.load_state_dict(kept)
    found = predict(inputs(table["x_test"])).numpy()
    facts = {"epochs": epoch, "epoch_seconds": seconds}
    return found if classes else found * scale + mean, facts


def trees(table: dict, held: np.ndarray, classes: bool, settings: dict) -> tuple[np.ndarray, dict]:
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    # More than 255 categories are too many: a number then.
    categorical = table["categorical"] & (np.nan_to_num(table["x"]).max(0) < 255)
    kind = HistGradientBoostingClassifier if classes else HistGradientBoostingRegressor
    model = kind(categorical_features=categorical, random_state=settings["seed"])
    model.fit(table["x"], table["y"])
    x = table["x_test"]
    return (model.predict_proba(x) if classes else model.predict(x)), {}


def perceptron(
    table: dict, held: np.ndarray, classes: bool, settings: dict
) -> tuple[np.ndarray, dict]:
    from sklearn.compose import make_column_transformer
    from sklearn.impute import SimpleImputer
    from sklearn.neural_network import MLPClassifier, MLPRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    categorical = np.flatnonzero(table["categorical"])
    numbers = np.flatnonzero(~table["categorical"])
    columns = make_column_transformer(
        (make_pipeline(SimpleImputer(), StandardScaler()), numbers),
        (OneHotEncoder(handle_unknown="ignore"), categorical),
        sparse_threshold=0,
    )
    kind = MLPClassifier if classes else MLPRegressor
    model = kind(hidden_layer_sizes=(256, 256), early_stopping=True, random_state=settings["seed"])
    y = table["y"]
    mean, scale = (0, 1) if classes else (y.mean(), y.std())
    model = make_pipeline(columns, model).fit(table["x"], y if classes else (y - mean) / scale)
    x = table["x_test"]
    return (model.predict_proba(x) if classes else model.predict(x) * scale + mean), {}


if __name__ == "__main__":
    main()
