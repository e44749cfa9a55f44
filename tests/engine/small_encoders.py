"""Small random models that read texts whole: vectors, labels, scores."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification, BertModel

from cactus_mesh.engine.models import SELFTEST_FOLDER

if TYPE_CHECKING:
    from pathlib import Path


def make_small_encoders(place: Path) -> dict[str, Path]:
    torch.manual_seed(3)
    shape = {"vocab_size": 2048, "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2}
    shape |= {"num_attention_heads": 4, "max_position_embeddings": 256, "initializer_range": 0.3}
    networks = {
        "embeds": BertModel(BertConfig(**shape), add_pooling_layer=False),
        "classifies": BertForSequenceClassification(BertConfig(**shape, id2label={0: "no", 1: "yes", 2: '"?"'})),
        "ranks": BertForSequenceClassification(BertConfig(**shape, num_labels=1)),
    }
    tokenizer = AutoTokenizer.from_pretrained(SELFTEST_FOLDER)
    tokenizer.model_max_length = 200
    for name, network in networks.items():
        network.save_pretrained(place / name)
        tokenizer.save_pretrained(place / name)
    return {name: place / name for name in networks}
