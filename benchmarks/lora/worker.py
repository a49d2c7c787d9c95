"""One variant of one case in this process: `python -m lora.worker CASE VARIANT THREADS [--tiny]`.

Cases: "step", one update of a classifier of BERT's shape; "dora", one DoRA layer; "rows", the
forward pass of a batch that mixes adapters.
"""

from collections.abc import Callable
from typing import Any

from turns.serve import serve
from turns.timing import Calls

SHAPE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
         "intermediate_size": 3072, "vocab_size": 30522}  # fmt: skip
TINY = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 128, "vocab_size": 100}  # fmt: skip
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
TARGETS = ["query", "key", "value", "attention.output.dense", "intermediate.dense",
           "output.dense"]  # fmt: skip
RANK, ROWS, LENGTH = 8, 8, 128
DORA_SIZES, DORA_ROWS = (768, 3072), (1024, 128)
MIXED_ROWS = 16
THREADS = 2


def prepare(case: str, variant: str, threads: int, tiny: bool) -> Calls:
    """Import what the variant needs, and nothing else."""
    if variant.startswith("peft"):
        import torch

        torch.set_num_threads(threads)
        return _peft_step(variant, tiny)
    import mlx_fastcpu

    # A step splits its batch over threads, each with its share of BLAS's; so does mlx-kaggle.
    mlx_fastcpu.activate(threads=1 if case == "step" else threads)
    return {"step": _our_step, "dora": _dora_layer, "rows": _mixed_rows}[case](variant, tiny)


def _peft_step(variant: str, tiny: bool) -> Calls:
    import torch
    import transformers
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    config = transformers.BertConfig(**(TINY if tiny else SHAPE), **NO_DROPOUT, num_labels=4)
    model: Any = transformers.BertForSequenceClassification(config)
    if variant != "peft-full":
        adapter = LoraConfig(task_type="SEQ_CLS", r=RANK, lora_alpha=16, target_modules=TARGETS,
                             use_dora=variant == "peft-dora")  # fmt: skip
        model = get_peft_model(model, adapter)
    model.train()
    trained = [each for each in model.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=False, foreach=True)
    ids, labels = _batch(tiny)
    ids, labels = torch.tensor(ids), torch.tensor(labels)

    def step() -> None:
        loss = torch.nn.functional.cross_entropy(model(input_ids=ids).logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    count = sum(each.numel() for each in trained)
    return Calls({"step": step}, ["step"], {"trained": count})


def _our_step(variant: str, tiny: bool) -> Calls:
    import mlx.core as mx
    import mlx.nn as nn

    from mlx_lora import LoraConfig, add_adapter
    from mlx_trainer import AdamW, TrainStep

    model = _bert(tiny)
    quantized = "qlora" in variant
    if quantized:
        nn.quantize(model, group_size=64, bits=4,
                    class_predicate=lambda path, layer: isinstance(layer, nn.Linear)
                    and "classifier" not in path)  # fmt: skip
    if variant != "full":
        add_adapter(model, LoraConfig(
            task_type="SEQ_CLS", r=RANK, lora_alpha=16, target_modules=TARGETS,
            use_dora="dora" in variant,
        ))  # fmt: skip
    model.encoder_model.gradient_checkpointing = "checkpointed" in variant
    model.train()
    ids, labels = _batch(tiny)
    batch = {"ids": mx.array(ids), "labels": mx.array(labels)}

    def loss(model: Any, batch: dict) -> tuple:
        losses = nn.losses.cross_entropy(model(batch["ids"]), batch["labels"])
        return losses.sum(), mx.array(float(len(losses)))

    step = TrainStep(model, AdamW(), loss, threads=THREADS)
    mx.reset_peak_memory()
    return Calls({"step": lambda: step([batch], 1e-4)}, ["step"], {"trained": _trained(model)})


def _dora_layer(variant: str, tiny: bool) -> Calls:
    """The forward and backward pass of one layer, of float32 or in 4 bits."""
    import mlx.core as mx
    import mlx.nn as nn

    inputs, outputs = (64, 128) if tiny else DORA_SIZES
    measured: dict[str, Callable[[], object]] = {}
    for bits in (None, 4):
        mx.random.seed(0)
        layer: Any = nn.Linear(inputs, outputs)
        if bits:
            layer = nn.QuantizedLinear.from_linear(layer, 64, bits)
        model = nn.Sequential(layer)
        if variant == "mlx-lm":
            from mlx_lm.tuner.dora import DoRALinear

            model.layers[0] = DoRALinear.from_base(layer, r=RANK, dropout=0.0, scale=2.0)
            model.freeze()
            model.layers[0].unfreeze(keys=["lora_a", "lora_b", "m"], recurse=False)
        else:
            from mlx_lora import LoraConfig, add_adapter

            add_adapter(model, LoraConfig(r=RANK, lora_alpha=16, target_modules="all-linear",
                                          use_dora=variant == "ours"))  # fmt: skip
        for rows in DORA_ROWS:
            x = mx.random.normal((rows // (32 if tiny else 1), inputs))
            form = "4 bits" if bits else "float32"
            measured[f"{form}, {rows} rows"] = _layer_call(_patched(model), x)
    return Calls(measured, list(measured))


def _layer_call(model: Any, x: Any) -> Callable[[], object]:
    import mlx.core as mx
    import mlx.nn as nn

    step = nn.value_and_grad(model, lambda x: mx.square(model(x)).mean())
    compiled = mx.compile(step, inputs=[model.state], outputs=[model.state])
    return lambda: mx.eval(compiled(x))


def _mixed_rows(variant: str, tiny: bool) -> Calls:
    """The forward pass of 16 rows: the base alone, one adapter, or 1, 4, 16 mixed ones."""
    import mlx.core as mx
    import mlx.nn as nn

    from mlx_lora import LoraConfig, MixedAdapters, add_adapter, set_adapter

    model = _bert(tiny).encoder_model
    if variant == "4 bits":
        nn.quantize(model, group_size=64, bits=4,
                    class_predicate=lambda path, layer: isinstance(layer, nn.Linear))  # fmt: skip
    model = _patched(model).eval()
    ids = mx.array([[*range(1, 33)]] * MIXED_ROWS)
    names = [f"adapter {i}" for i in range(16)]

    def forward() -> Callable[[], object]:
        compiled = mx.compile(lambda ids: model(ids), inputs=[model.state])
        return lambda: mx.eval(compiled(ids))

    measured: dict[str, Callable[[], object]] = {"base": forward()}
    for name in names:
        add_adapter(model, LoraConfig(r=RANK, lora_alpha=16, target_modules=TARGETS), name)
    for layer in model.modules():
        if "lora_B" in layer:
            layer.lora_B.weight = 0.01 * mx.random.normal(layer.lora_B.weight.shape)
    set_adapter(model, ())
    one = forward()

    def with_one() -> None:
        set_adapter(model, names[0])
        one()
        set_adapter(model, ())

    measured["one adapter for all"] = with_one
    for count in (1, 4, 16):
        mixed = MixedAdapters(model, names[:count])
        rows = (names[:count] * MIXED_ROWS)[:MIXED_ROWS]
        measured[f"{count} mixed"] = _with_rows(mixed, rows, forward())

    def separately() -> None:
        for row, name in enumerate(names):
            set_adapter(model, name)
            mx.eval(model(ids[row : row + 1]))
        set_adapter(model, ())

    measured["16 passes of one row"] = separately
    return Calls(measured, list(measured))


def _with_rows(mixed: Any, rows: list[str], call: Callable[[], object]) -> Callable[[], object]:
    def run() -> None:
        with mixed.rows(rows):
            call()

    return run


def _bert(tiny: bool) -> Any:
    import mlx.core as mx

    from mlx_encoders import BertConfig, BertForSequenceClassification

    mx.random.seed(0)
    config = BertConfig(**(TINY if tiny else SHAPE), **NO_DROPOUT, num_labels=4)
    model = BertForSequenceClassification(config)
    mx.eval(model.parameters())
    return _patched(model)


def _patched(model: Any) -> Any:
    from mlx_fastcpu import patch_nn

    return patch_nn(model, dequantize=False)


def _batch(tiny: bool) -> tuple[list[list[int]], list[int]]:
    length = 16 if tiny else LENGTH
    ids = [[1 + (7 * row + column) % 90 for column in range(length)] for row in range(ROWS)]
    return ids, [row % 4 for row in range(ROWS)]


def _trained(model: Any) -> int:
    from mlx.utils import tree_flatten

    return sum(array.size for _, array in tree_flatten(model.trainable_parameters()))


if __name__ == "__main__":
    serve(prepare)
