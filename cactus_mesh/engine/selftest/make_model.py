"""Makes the self-test model from corpus.py: a byte-level tokenizer, then a small Llama, trained on two CPU cores.

    OMP_NUM_THREADS=2 python -m cactus_mesh.engine.selftest.make_model FOLDER

takes about twelve minutes and writes the files of this folder's ``model``.  Everything is seeded: the same versions of
torch, tokenizers and transformers on the same kind of processor give the same weights.
"""

from __future__ import annotations

import json
import math
import random
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from cactus_mesh.engine.selftest.corpus import Document, documents, read_facts

if TYPE_CHECKING:
    from collections.abc import Iterator

SEED: Final = 20_261_123
STEPS: Final = 1_800
BATCH_TOKENS: Final = 2_048
PEAK_LEARNING_RATE: Final = 4e-3
WARM_UP_STEPS: Final = 30
VOCABULARY: Final = 2_048
CONTEXT_TOKENS: Final = 1_024
IGNORED: Final = -100
"""torch's label for a position that is not learnt."""

BEGIN, END, SYSTEM, USER, ASSISTANT = SPECIAL_TOKENS = (
    "<|begin|>",
    "<|end|>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
)
CHAT_TEMPLATE: Final = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message.role == 'system' and not loop.first %}"
    "{{ raise_exception('a system message can only come first') }}"
    "{% endif %}"
    "<|{{ message.role }}|>{{ message.content | trim }}<|end|>"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

Example = tuple[list[int], list[int]]
"""Token ids, and their labels."""


def make_tokenizer(texts: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A", special_tokens=[(BEGIN, tokenizer.token_to_id(BEGIN))]
    )
    return tokenizer


def texts_of(document: Document) -> list[str]:
    return [document.text, document.system or "", *(t for turn in document.turns for t in (turn.question, turn.answer))]


def example(document: Document, tokenizer: Tokenizer) -> Example:
    """Only what the model itself has to say is learnt: the answers, and plain texts."""
    ids = list(tokenizer.encode("").ids)  # just <|begin|>
    labels = [IGNORED]

    def add(text: str, *, learn: bool) -> None:
        new = tokenizer.encode(text, add_special_tokens=False).ids
        ids.extend(new)
        labels.extend(new if learn else [IGNORED] * len(new))

    if document.text:
        add(f"{document.text}{END}", learn=True)
    if document.system:
        add(f"{SYSTEM}{document.system}{END}", learn=False)
    for turn in document.turns:
        add(f"{USER}{turn.question}{END}{ASSISTANT}", learn=False)
        add(f"{turn.answer}{END}", learn=True)
    return ids[:CONTEXT_TOKENS], labels[:CONTEXT_TOKENS]


def batches(tokenizer: Tokenizer, rng: random.Random) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Endless batches of examples of about the same length."""
    facts = read_facts()
    while True:
        examples = sorted((example(d, tokenizer) for d in documents(facts, rng)), key=lambda e: len(e[0]))
        groups: list[list[Example]] = [[]]
        for one in examples:
            if groups[-1] and len(one[0]) * (len(groups[-1]) + 1) > BATCH_TOKENS:
                groups.append([])
            groups[-1].append(one)
        rng.shuffle(groups)
        for group in groups:
            longest = max(len(ids) for ids, _ in group)
            yield (
                torch.tensor([ids + [0] * (longest - len(ids)) for ids, _ in group]),
                torch.tensor([labels + [IGNORED] * (longest - len(labels)) for _, labels in group]),
            )


def make_network(tokenizer: Tokenizer) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=5,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=CONTEXT_TOKENS,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.token_to_id(BEGIN),
        eos_token_id=tokenizer.token_to_id(END),
        pad_token_id=tokenizer.token_to_id(END),
    )
    return LlamaForCausalLM(config)


def learning_rate(step: int) -> float:
    if step < WARM_UP_STEPS:
        return PEAK_LEARNING_RATE * (step + 1) / WARM_UP_STEPS
    return PEAK_LEARNING_RATE * (
        0.02 + 0.49 * (1 + math.cos(math.pi * (step - WARM_UP_STEPS) / (STEPS - WARM_UP_STEPS)))
    )


def make_optimizers(network: LlamaForCausalLM) -> list[torch.optim.Optimizer]:
    """Muon for the matrices: after the same few steps its loss was less than half of AdamW's."""
    matrices = [p for name, p in network.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in network.named_parameters() if p.ndim != 2 or "embed" in name]
    return [
        torch.optim.Muon(matrices, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def train(network: LlamaForCausalLM, tokenizer: Tokenizer, rng: random.Random) -> None:
    """Padding needs no mask: it stands after all that is learnt, and attention only looks back."""
    optimizers = make_optimizers(network)
    started = time.monotonic()
    mean = 0.0
    for step, (ids, labels) in zip(range(STEPS), batches(tokenizer, rng), strict=False):
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = learning_rate(step)
        logits = network(input_ids=ids).logits
        loss = torch.nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED
        )
        network.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        mean = loss.item() if step == 0 else 0.97 * mean + 0.03 * loss.item()
        if step % 50 == 0 or step == STEPS - 1:
            print(f"step {step:5d} of {STEPS}  loss {mean:.3f}  {time.monotonic() - started:.0f} s", flush=True)


def save(network: LlamaForCausalLM, tokenizer: Tokenizer, folder: Path) -> None:
    network.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        bos_token_id=tokenizer.token_to_id(BEGIN), eos_token_id=tokenizer.token_to_id(END)
    )
    network.half().save_pretrained(folder)  # type: ignore[no-untyped-call]
    wrapped = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        bos_token=BEGIN,
        eos_token=END,
        model_max_length=CONTEXT_TOKENS,
        clean_up_tokenization_spaces=False,
    )
    wrapped.chat_template = CHAT_TEMPLATE
    wrapped.save_pretrained(folder)
    written = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    print(json.dumps(written, indent=1))


def main(folder: Path) -> None:
    torch.manual_seed(SEED)
    rng = random.Random(SEED)
    facts = read_facts()
    texts = [text for _ in range(4) for document in documents(facts, rng) for text in texts_of(document) if text]
    tokenizer = make_tokenizer(texts)
    network = make_network(tokenizer)
    print(f"{sum(p.numel() for p in network.parameters()):,} parameters, {tokenizer.get_vocab_size()} tokens")
    train(network, tokenizer, rng)
    save(network, tokenizer, folder)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
