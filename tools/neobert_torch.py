"""NeoBERT in PyTorch, derived from its paper and its tensors, as a reference for mlx-encoders.

The authors' code needs xformers and loses its rotary table in transformers 5. This one rotates
pairs as complex numbers, keeps queries, keys and values of a head side by side as the checkpoint
does, and adds masks to the scores: none of it is how mlx-encoders computes. In any dtype; complex
numbers have two floats of at least 32 bits.
"""

import torch
from torch import nn
from torch.nn import functional as F


class RMSNorm(nn.Module):
    def __init__(self, size: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


class SwiGLU(nn.Module):
    def __init__(self, size: int, inner: int):
        super().__init__()
        self.w12 = nn.Linear(size, 2 * inner, bias=False)
        self.w3 = nn.Linear(inner, size, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, second = self.w12(x).chunk(2, dim=-1)
        return self.w3(F.silu(first) * second)


class Block(nn.Module):
    def __init__(self, size: int, heads: int, inner: int, eps: float):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(size, 3 * size, bias=False)
        self.wo = nn.Linear(size, size, bias=False)
        self.ffn = SwiGLU(size, inner)
        self.attention_norm = RMSNorm(size, eps)
        self.ffn_norm = RMSNorm(size, eps)

    def forward(self, x: torch.Tensor, added: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
        B, L, D = x.shape
        size = D // self.heads
        q, k, v = self.qkv(self.attention_norm(x)).view(B, L, self.heads, 3 * size).chunk(3, -1)
        q, k = (self.rotate(each, turns).transpose(1, 2) for each in (q, k))
        scores = q @ k.transpose(-1, -2) / size**0.5 + added[:, None, None, :]
        self.weights = scores.softmax(-1)  # (B, heads, L, L)
        mixed = self.weights @ v.transpose(1, 2)
        x = x + self.wo(mixed.transpose(1, 2).reshape(B, L, D))
        return x + self.ffn(self.ffn_norm(x))

    @staticmethod
    def rotate(x: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
        wide = x.to(turns.real.dtype).reshape(*x.shape[:-1], -1, 2).contiguous()
        turned = torch.view_as_complex(wide) * turns[None, :, None, :]
        return torch.view_as_real(turned).flatten(3).to(x.dtype)


class NeoBERT(nn.Module):
    def __init__(self, config: dict):
        super().__init__()
        size, heads = config["hidden_size"], config["num_attention_heads"]
        inner = 8 * ((int(2 * config["intermediate_size"] / 3) + 7) // 8)
        self.head_size = size // heads
        self.encoder = nn.Embedding(config["vocab_size"], size)
        self.transformer_encoder = nn.ModuleList(
            Block(size, heads, inner, config["norm_eps"])
            for _ in range(config["num_hidden_layers"])
        )
        self.layer_norm = RMSNorm(size, config["norm_eps"])

    def forward(self, ids: torch.Tensor, valid: torch.Tensor) -> list[torch.Tensor]:
        x = self.encoder(ids)
        wide = torch.promote_types(x.dtype, torch.float32)
        speeds = 1.0 / 10000 ** (torch.arange(0, self.head_size, 2, dtype=wide) / self.head_size)
        angles = torch.outer(torch.arange(ids.shape[1], dtype=wide), speeds)
        turns = torch.polar(torch.ones_like(angles), angles)
        added = (~valid.bool()).to(x.dtype) * torch.finfo(x.dtype).min
        states = [x]
        for block in self.transformer_encoder:
            states.append(block(states[-1], added, turns))
        states[-1] = self.layer_norm(states[-1])
        return states


class NeoBERTLMHead(nn.Module):
    def __init__(self, config: dict):
        super().__init__()
        self.model = NeoBERT(config)
        self.decoder = nn.Linear(config["hidden_size"], config["vocab_size"])

    def forward(self, ids: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.model(ids, valid)[-1])


class NeoBERTForSequenceClassification(nn.Module):
    """The hub's head: dense, tanh and classifier on the first token; dropout is left out."""

    def __init__(self, config: dict):
        super().__init__()
        size = config["hidden_size"]
        self.model = NeoBERT(config)
        self.dense = nn.Linear(size, size)
        self.classifier = nn.Linear(size, config["num_labels"])

    def forward(self, ids: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        first = self.model(ids, valid)[-1][:, 0]
        return self.classifier(torch.tanh(self.dense(first)))
