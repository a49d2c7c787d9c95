"""Make the LoRA adapters that mlx-encoders merges at export, with PEFT.

Run in an environment with torch, transformers and peft, after `make_fixtures_encoders.py`:

    python tools/make_fixtures_adapters.py

Writes packages/mlx-encoders/tests/fixtures/adapters; made with peft 0.21.2, transformers 5.23.0 and
torch 2.13.0. `case.safetensors` has ids and the adapted model's outputs.
"""

import json
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import AutoModel, AutoModelForSequenceClassification

FIXTURES = Path(__file__).parents[1] / "packages/mlx-encoders/tests/fixtures"


def main() -> None:
    torch.manual_seed(0)
    bert = AutoModelForSequenceClassification.from_pretrained(FIXTURES / "bert", num_labels=3)
    config = LoraConfig(
        task_type="SEQ_CLS",
        r=2,
        lora_alpha=6,
        target_modules=["query", "value", "intermediate.dense", "word_embeddings"],
        rank_pattern={"layer.1.attention.self.value": 3},
        alpha_pattern={"query": 5},
        init_lora_weights=False,
        bias="lora_only",
    )
    write("bert", bert, config, lambda output: output.logits)
    modernbert = AutoModel.from_pretrained(FIXTURES / "modernbert")
    config = LoraConfig(
        r=4, lora_alpha=8, target_modules=["Wqkv", "Wo"], use_rslora=True, init_lora_weights=False
    )
    write("modernbert", modernbert, config, lambda output: output.last_hidden_state)
    refused = LoraConfig(r=2, target_modules=["Wqkv"], use_dora=True)
    model = get_peft_model(AutoModel.from_pretrained(FIXTURES / "modernbert"), refused)
    save("dora", model)


def write(name: str, model: torch.nn.Module, config: LoraConfig, output_of) -> None:
    adapted = get_peft_model(model, config)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
    adapted.eval()
    ids = torch.randint(3, 50, (3, 20))
    mask = torch.ones_like(ids)
    mask[1, 12:] = 0
    mask[2, :5] = 0
    with torch.no_grad():
        outputs = output_of(adapted(input_ids=ids, attention_mask=mask))
    save(name, adapted)
    case = {"input_ids": ids, "attention_mask": mask, "outputs": outputs.contiguous()}
    path = FIXTURES / "adapters" / name / "case.safetensors"
    save_file(case, path)
    path.chmod(0o644)


def save(name: str, adapted: torch.nn.Module) -> None:
    folder = FIXTURES / "adapters" / name
    adapted.save_pretrained(folder)
    (folder / "README.md").unlink()
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    # Not the path on this machine; and sets are written in another order each time.
    config |= {"base_model_name_or_path": None, "target_modules": sorted(config["target_modules"])}
    path.write_text(json.dumps(config, indent=2) + "\n")
    for file in folder.iterdir():
        file.chmod(0o644)


if __name__ == "__main__":
    main()
