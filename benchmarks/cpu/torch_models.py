"""The same models in PyTorch: those of transformers with sdpa, and the GPT."""

import torch
import torch.nn.functional as F
from torch import nn
from turns.timing import Calls

from cpu.sizes import Size, size_of

EPS = 1e-6
SOFTCAP = 15.0


def prepare(case: str, threads: int, tiny: bool) -> Calls:
    """Return forward and training step, the step with either implementation of AdamW."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    size = size_of(case, tiny)
    model = build(case, size)
    parameters = list(model.parameters())
    plain = torch.optim.AdamW(parameters, lr=1e-5)
    fused = torch.optim.AdamW(parameters, lr=1e-5, fused=True)
    fused.state = plain.state  # the moments of one serve both: memory
    ids = torch.randint(0, size.vocab, (size.rows, size.length))
    targets = make_targets(case, size)

    def forward() -> None:
        with torch.inference_mode():
            model(ids)

    def step(optimizer: torch.optim.Optimizer) -> float:
        loss = loss_of(case, model(ids), targets)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    measured = {
        "forward": forward,
        "step": lambda: step(plain),
        "step, fused AdamW": lambda: step(fused),
    }
    count = sum(each.numel() for each in parameters)
    return Calls(measured, list(measured), {"parameters": count})


def build(case: str, size: Size) -> nn.Module:
    """Return the model of a case with random weights and without dropout."""
    if case == "d6":
        return GPT(size)
    from transformers import BertConfig, BertModel, ModernBertConfig, ModernBertModel

    shape = {
        "vocab_size": size.vocab,
        "hidden_size": size.width,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "intermediate_size": size.inner,
        "pad_token_id": 0,
        "attn_implementation": "sdpa",
    }
    if case == "modernbert-base":
        return Hidden(ModernBertModel(ModernBertConfig(**shape)))
    config = BertConfig(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, **shape)
    return Hidden(BertModel(config, add_pooling_layer=False))


def make_targets(case: str, size: Size) -> torch.Tensor:
    """Return what the loss compares with: token ids, or hidden states."""
    if case == "d6":
        return torch.randint(0, size.vocab, (size.rows, size.length))
    return torch.randn(size.rows, size.length, size.width)


def loss_of(case: str, output: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the mean cross-entropy, or the mean square of the difference."""
    if case == "d6":
        return F.cross_entropy(output.flatten(0, 1), targets.flatten())
    return F.mse_loss(output, targets)


class Hidden(nn.Module):
    """An encoder of transformers that returns its last hidden state."""

    def __init__(self, encoder: nn.Module):
        super().__init__()
        self.encoder = encoder

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.encoder(ids).last_hidden_state


class GPT(nn.Module):
    """Token ids (B, L) to logits (B, L, vocab), as `cpu.gpt.GPT`."""

    def __init__(self, size: Size):
        super().__init__()
        self.embedding = nn.Embedding(size.vocab, size.width)
        self.layers = nn.ModuleList([Layer(size) for _ in range(size.layers)])
        self.head = nn.Linear(size.width, size.vocab, bias=False)
        half = size.width // size.heads // 2
        frequencies = 10000.0 ** (-torch.arange(half) / half)
        angles = torch.arange(size.length)[:, None] * frequencies  # (L, D_head / 2)
        self.register_buffer("cosines", angles.cos(), persistent=False)
        self.register_buffer("sines", angles.sin(), persistent=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = normalized(self.embedding(ids))
        for layer in self.layers:
            x = layer(x, self.cosines, self.sines)
        return SOFTCAP * torch.tanh(self.head(normalized(x)) / SOFTCAP)


class Layer(nn.Module):
    """Attention and two-layer network."""

    def __init__(self, size: Size):
        super().__init__()
        self.heads = size.heads
        self.query = nn.Linear(size.width, size.width, bias=False)
        self.key = nn.Linear(size.width, size.width, bias=False)
        self.value = nn.Linear(size.width, size.width, bias=False)
        self.output = nn.Linear(size.width, size.width, bias=False)
        self.up = nn.Linear(size.width, size.inner, bias=False)
        self.down = nn.Linear(size.inner, size.width, bias=False)

    def forward(self, x: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor) -> torch.Tensor:
        x = x + self.attend(normalized(x), cosines, sines)
        return x + self.down(F.relu(self.up(normalized(x))).square())

    def attend(self, x: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor) -> torch.Tensor:
        B, L, D = x.shape
        queries, keys, values = (
            project(x).view(B, L, self.heads, -1).transpose(1, 2)  # (B, heads, L, D_head)
            for project in (self.query, self.key, self.value)
        )
        queries = normalized(rotated(queries, cosines, sines))
        keys = normalized(rotated(keys, cosines, sines))
        context = F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        return self.output(context.transpose(1, 2).reshape(B, L, D))


def normalized(x: torch.Tensor) -> torch.Tensor:
    """RMSNorm without weights."""
    return F.rms_norm(x, (x.shape[-1],), eps=EPS)


def rotated(x: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor) -> torch.Tensor:
    """Turn pairs (first half, second half) by their position's angles."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cosines - second * sines, second * cosines + first * sines], dim=-1)
