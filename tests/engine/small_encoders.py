"""Small random models that read texts whole: vectors, labels, scores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification, BertModel

from cactus_mesh.core.readings import passages_of
from cactus_mesh.engine.models import SELFTEST_FOLDER
from cactus_mesh.messages import Classify, Embed, Rerank

if TYPE_CHECKING:
    from collections.abc import Sequence
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


def make_cheap_encoders(place: Path, honest: dict[str, Path], ways: Sequence[str]) -> dict[str, Path]:
    """What a cheat would run in place of each: with the same tokens and shape of answers."""
    made: dict[str, Path] = {}
    for name, folder in honest.items():
        for way in ways:
            network = _network(folder)
            with torch.no_grad():
                _cheapen(network, way)
            made[f"{name}-{way}"] = place / f"{name}-{way}"
            network.save_pretrained(made[f"{name}-{way}"])
            AutoTokenizer.from_pretrained(folder).save_pretrained(made[f"{name}-{way}"])
    return made


def _network(folder: Path, attention: str = "sdpa") -> Any:
    if folder.name == "embeds":
        return BertModel.from_pretrained(folder, add_pooling_layer=False, attn_implementation=attention)
    return BertForSequenceClassification.from_pretrained(folder, attn_implementation=attention)


def _cheapen(network: Any, way: str) -> None:
    if way == "dropped":
        del network.base_model.encoder.layer[0]
        network.config.num_hidden_layers -= 1
    for module in network.modules():
        if not isinstance(module, torch.nn.Linear):
            continue
        if way == "int8":
            scale = module.weight.abs().amax(dim=1, keepdim=True) / 127
            module.weight.copy_((module.weight / scale).round() * scale)
        elif way == "bf16":
            module.weight.copy_(module.weight.bfloat16())
        elif way == "other":
            module.weight.copy_(module.weight.flip(0))


def plain_rows(folder: Path, work: Embed | Classify | Rerank, attention: str) -> list[list[float]]:
    """What transformers makes of each text, alone."""
    network, tokenizer = _network(folder, attention).eval(), AutoTokenizer.from_pretrained(folder)
    rows = []
    for text in passages_of(work):
        parts = (work.query, text) if isinstance(work, Rerank) else (text,)
        with torch.inference_mode():
            found = network(input_ids=tokenizer(*parts, return_tensors="pt")["input_ids"])
        if isinstance(work, Embed):
            mean = found.last_hidden_state[0].mean(dim=0)
            rows.append((mean / mean.norm()).tolist())
        else:
            logits = found.logits[0]
            rows.append((logits.softmax(dim=0) if isinstance(work, Classify) else logits[:1]).tolist())
    return rows
