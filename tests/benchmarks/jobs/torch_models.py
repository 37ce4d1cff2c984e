"""The PyTorch models whose training steps are compared: two MLPs and a small transformer, each with its batches."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

TOKENS, LENGTH, WIDTH = 256, 32, 128


@dataclass(frozen=True)
class Workload:
    """A model and what a replica trains it on in one step."""

    build: Callable[[], nn.Module]
    batch: int
    draw: Callable[[int], tuple[Tensor, Tensor]]
    """Makes so many examples and their labels."""


class Transformer(nn.Module):
    """A language model of two layers: next token of a sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(TOKENS, WIDTH)
        self.position = nn.Parameter(torch.zeros(LENGTH, WIDTH))
        layer = nn.TransformerEncoderLayer(WIDTH, nhead=4, dim_feedforward=4 * WIDTH, dropout=0.0, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, num_layers=2, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, TOKENS)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(LENGTH), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.layers(self.embedding(tokens) + self.position, mask=self.mask, is_causal=True)
        return self.head(hidden).flatten(0, 1)


def _mlp(*widths: int) -> nn.Module:
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _examples(width: int) -> Callable[[int], tuple[Tensor, Tensor]]:
    return lambda batch: (torch.randn(batch, width), torch.randint(10, (batch,)))


def _sequences(batch: int) -> tuple[Tensor, Tensor]:
    tokens = torch.randint(TOKENS, (batch, LENGTH + 1))
    return tokens[:, :-1].contiguous(), tokens[:, 1:].flatten()


WORKLOADS = {
    "MLP 784-1024-1024-10": Workload(lambda: _mlp(784, 1024, 1024, 10), 128, _examples(784)),
    "MLP 64-256-256-10": Workload(lambda: _mlp(64, 256, 256, 10), 64, _examples(64)),
    "transformer 2x128": Workload(Transformer, 16, _sequences),
}


def training_step(
    model: nn.Module, optimizer: Any, data: tuple[Tensor, Tensor], reduction: str = "mean", **options: float
) -> None:
    """Do what every rival does in one step: the lines of a user's loop."""
    examples, labels = data
    optimizer.zero_grad()
    cross_entropy(model(examples), labels, reduction=reduction).backward()
    optimizer.step(**options)
