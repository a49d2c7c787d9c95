"""Make the parity fixtures of mlx-encoders with transformers, and check that it reads our files.

Run in an environment with torch, transformers and mlx-encoders:

    python tools/make_fixtures_encoders.py [folder of all-MiniLM-L6-v2]

Writes packages/mlx-encoders/tests/fixtures; made with transformers 5.23.0 and torch 2.13.0. The
round trips at the end write nothing: they raise when transformers reads our folders differently.
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.torch import save_file

import mlx_encoders

FIXTURES = Path(__file__).parents[1] / "packages/mlx-encoders/tests/fixtures"

BERT = {
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 24,
}
MODERNBERT = {
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
    "local_attention": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "cls_token_id": 1,
    "sep_token_id": 2,
    "rope_parameters": {
        "full_attention": {"rope_type": "default", "rope_theta": 5000.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 300.0},
    },
}
OLD_DIALECT = {
    "global_attn_every_n_layers": 2,
    "global_rope_theta": 800.0,
    "local_rope_theta": 90.0,
    "local_attention": 16,
}
SENTENCES = [
    "Owen Harris Braund, male, aged 22, paid 7.25 in third class.",
    "A woman.",
    "Forest fire near La Ronge Sask. Canada: all residents asked to shelter in place!",
]


def randomize(model: torch.nn.Module) -> None:
    """Give every parameter, biases and gains too, a value that a wrong use of it would show."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        noise = 0.1 * torch.randn(parameter.shape, generator=generator)
        is_gain = parameter.ndim == 1 and name.endswith("weight")
        parameter.data = 1 + noise if is_gain else noise


def make_inputs(batch: int, length: int, padding: str, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 50, (batch, length), generator=generator)
    if padding == "none":
        return {"input_ids": ids}
    lengths = torch.tensor([length, length // 2, 1])[:batch]
    valid = torch.arange(length)[None] < lengths[:, None]
    valid = valid.flip(1) if padding == "left" else valid
    return {"input_ids": ids * valid, "attention_mask": valid.long()}


def run_case(model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return inputs, all hidden states and, with a fixed cotangent, the gradient of each weight."""
    model.zero_grad()
    output = model(**inputs, output_hidden_states=True)
    last = output.last_hidden_state
    valid = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"]))[..., None]
    cotangent = torch.randn(last.shape, generator=torch.Generator().manual_seed(9)) * valid
    loss = (last * cotangent).sum()
    result = {**inputs, "cotangent": cotangent}
    if "pooler_output" in output:
        result["pooled"] = output.pooler_output
        loss = loss + output.pooler_output.sum()
    loss.backward()
    states = (*output.hidden_states[:-1], last)
    assert len(states) == model.config.num_hidden_layers + 1
    result |= {f"hidden.{index}": state for index, state in enumerate(states)}
    result |= {f"gradient.{name}": weight.grad for name, weight in model.named_parameters()}
    return result


def write_case(path: Path, case: dict[str, torch.Tensor], gradients: bool) -> None:
    kept = {k: v for k, v in case.items() if gradients or not k.startswith("gradient.")}
    save_file({name: value.detach().contiguous() for name, value in kept.items()}, path)


def make_bert() -> None:
    folder = FIXTURES / "bert"
    model = transformers.BertModel(transformers.BertConfig(**BERT)).eval()
    randomize(model)
    model.save_pretrained(folder)
    types = {"token_type_ids": torch.arange(14)[None].repeat(3, 1) // 7}
    cases = {
        "no_mask": make_inputs(2, 9, "none", 1),
        "right_padding": make_inputs(3, 14, "right", 2) | types,
        "left_padding": make_inputs(3, 14, "left", 3),
    }
    for name, inputs in cases.items():
        case = run_case(model, inputs)
        write_case(folder / f"{name}.safetensors", case, gradients=name == "right_padding")


def make_modernbert() -> None:
    folder = FIXTURES / "modernbert"
    model = transformers.ModernBertModel(transformers.ModernBertConfig(**MODERNBERT)).eval()
    randomize(model)
    model.save_pretrained(folder)
    for name in ("none", "right", "left"):
        case = run_case(model, make_inputs(3, 22, name, 4))
        write_case(folder / f"{name}_padding.safetensors", case, gradients=name == "left")

    old_folder = FIXTURES / "modernbert_old_dialect"
    old_folder.mkdir(exist_ok=True)
    values = {key: value for key, value in MODERNBERT.items() if key != "rope_parameters"}
    values |= OLD_DIALECT | {"model_type": "modernbert"}
    (old_folder / "config.json").write_text(json.dumps(values, indent=2) + "\n")
    old = transformers.ModernBertModel(transformers.ModernBertConfig.from_pretrained(old_folder))
    old.load_state_dict(model.state_dict())
    case = run_case(old.eval(), make_inputs(2, 40, "right", 5))
    write_case(old_folder / "right_padding.safetensors", case, gradients=False)


def make_minilm(folder: Path) -> None:
    model = transformers.AutoModel.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer(SENTENCES, padding=True, return_tensors="pt")
    del inputs["token_type_ids"]
    with torch.no_grad():
        output = model(**inputs)
    case = {"hidden": output.last_hidden_state, "pooled": output.pooler_output, **inputs}
    write_case(FIXTURES / "minilm.safetensors", case, gradients=False)
    (FIXTURES / "minilm_sentences.json").write_text(json.dumps(SENTENCES, indent=2) + "\n")


def check_same_output(name: str, inputs: dict[str, torch.Tensor]) -> None:
    """Load a fixture here, save it, and compare transformers on the two folders, bit for bit."""
    with tempfile.TemporaryDirectory() as temporary:
        model, _ = mlx_encoders.load_model(FIXTURES / name)
        mlx_encoders.save(temporary, model)
        ours, info = transformers.AutoModel.from_pretrained(temporary, output_loading_info=True)
        theirs = transformers.AutoModel.from_pretrained(FIXTURES / name)
        assert not any(info.values()), info
        with torch.no_grad():
            difference = ours(**inputs)[0] - theirs(**inputs)[0]
        assert float(difference.abs().max()) == 0.0, name
    print(f"{name}: transformers reads what mlx_encoders.save wrote, bit for bit")


def check_task_checkpoints() -> None:
    """Load sharded checkpoints of transformers' task classes here, and compare the encoder."""
    bert, modernbert = transformers.BertConfig(**BERT), transformers.ModernBertConfig(**MODERNBERT)
    for task in (
        transformers.BertForMaskedLM(bert),
        transformers.BertForSequenceClassification(bert),
        transformers.BertForQuestionAnswering(bert),
        transformers.ModernBertForMaskedLM(modernbert),
        transformers.ModernBertForTokenClassification(modernbert),
    ):
        inputs = make_inputs(3, 22, "right", 6)
        with tempfile.TemporaryDirectory() as temporary:
            task.eval().save_pretrained(temporary, max_shard_size="20KB")
            model, report = mlx_encoders.load_model(temporary)
            ours = model(inputs["input_ids"].numpy(), inputs["attention_mask"].numpy())
        with torch.no_grad():
            theirs = task.base_model(**inputs)[0]
        valid = inputs["attention_mask"].bool().numpy()
        difference = np.abs(np.array(ours) - theirs.numpy())[valid].max()
        assert difference < 1e-5, (type(task).__name__, difference)
        print(f"{type(task).__name__}: encoder read here, {difference:.1e}; {report}")


def check_tokenizers() -> None:
    texts = [f"Passenger {i}, aged {i % 80}, paid {i * 7.25:.2f} in Çherbourg!" for i in range(300)]
    for kind in ("wordpiece", "bpe"):
        tokenizer = mlx_encoders.train_tokenizer(texts, kind=kind, vocab_size=400)
        with tempfile.TemporaryDirectory() as temporary:
            config = mlx_encoders.BertConfig(**BERT | {"vocab_size": 400})
            mlx_encoders.save(temporary, mlx_encoders.build_model(config), tokenizer)
            theirs = transformers.AutoTokenizer.from_pretrained(temporary)
            fast = transformers.PreTrainedTokenizerFast.from_pretrained(temporary)
        assert theirs(texts).input_ids == fast(texts).input_ids == tokenizer.encode(texts)
        assert theirs.pad_token_id == 0
        assert set(theirs(texts)) == {"input_ids", "attention_mask"}
        assert [theirs.unk_token_id, theirs.cls_token_id, theirs.mask_token_id] == [1, 2, 4]
        print(f"{kind}: transformers reads the trained tokenizer, same ids")


def check_initial_weights() -> None:
    """Compare the spread of fresh weights, parameter by parameter, with transformers' own."""
    bert = BERT | {"hidden_size": 256, "intermediate_size": 512, "vocab_size": 500}
    modernbert = MODERNBERT | {"hidden_size": 256, "intermediate_size": 512, "vocab_size": 500}
    for theirs, config in (
        (transformers.BertModel(transformers.BertConfig(**bert)), mlx_encoders.BertConfig(**bert)),
        (
            transformers.ModernBertModel(transformers.ModernBertConfig(**modernbert)),
            mlx_encoders.ModernBertConfig.from_dict(modernbert),
        ),
    ):
        ours = dict(mlx_encoders.build.named_parameters(mlx_encoders.build_model(config)))
        for name, weight in theirs.named_parameters():
            mine, other = np.array(ours[name]), weight.detach().numpy()
            assert np.isclose(mine.std(), other.std(), rtol=0.06, atol=1e-9), name
            assert np.isclose(np.abs(mine).max(), np.abs(other).max(), rtol=0.35), name
            assert (mine[0] == 0).all() == (other[0] == 0).all(), name  # the padding row
        print(f"{type(theirs).__name__}: fresh weights have the spread of transformers'")


def main() -> None:
    print(f"transformers {transformers.__version__}, torch {torch.__version__}")
    shutil.rmtree(FIXTURES / "bert", ignore_errors=True)
    shutil.rmtree(FIXTURES / "modernbert", ignore_errors=True)
    make_bert()
    make_modernbert()
    if len(sys.argv) > 1:
        make_minilm(Path(sys.argv[1]))
    check_same_output("bert", make_inputs(3, 14, "right", 7))
    check_same_output("modernbert", make_inputs(3, 22, "right", 7))
    check_task_checkpoints()
    check_tokenizers()
    check_initial_weights()


if __name__ == "__main__":
    main()
