"""Loading in this very process: what is loaded, and how each way to fail is named."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest

from cactus_mesh.core.pricing import complexity
from cactus_mesh.engine import EngineSettings, open_engine
from cactus_mesh.engine.models import SELFTEST_FOLDER
from cactus_mesh.errors import (
    ConfigMalformed,
    ModelMalformed,
    ModelMissing,
    ModelRefused,
    ModelTooLarge,
    ModelUnsupported,
)

if TYPE_CHECKING:
    from pathlib import Path

    from cactus_mesh.engine.runner.loading import LoadedModel
    from tests.engine.small_models import SmallModels


def load(*words: object, **settings: object) -> list[LoadedModel]:
    from cactus_mesh.engine.runner.loading import load_models

    return load_models([str(word) for word in words], EngineSettings(**settings))


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the self-test model, to be damaged."""
    return shutil.copytree(SELFTEST_FOLDER, tmp_path / "copy")


def change_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def test_weights_stored_in_half_precision_are_computed_in_full() -> None:
    import torch

    (model,) = load("selftest")
    assert model.facts.dtype == "float32"
    assert {parameter.dtype for parameter in model.network.parameters()} == {torch.float32}


def test_another_dtype_is_another_model() -> None:
    import torch

    full, half = load("selftest")[0], load("selftest", dtype="bfloat16")[0]
    assert half.facts.dtype == "bfloat16"
    assert half.network.dtype == torch.bfloat16
    assert half.facts.digest != full.facts.digest


def test_what_is_written_to_the_files_of_a_served_model_does_not_change_it(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    for dtype in ("float16", "float32"):
        folder = shutil.copytree(SELFTEST_FOLDER, tmp_path / dtype)
        weights = folder / "model.safetensors"
        stored = {name: each.float() if dtype == "float32" else each for name, each in load_file(weights).items()}
        save_file(stored, weights, metadata={"format": "pt"})
        (model,) = load(folder, dtype=dtype)
        before = {name: each.clone() for name, each in model.network.state_dict().items()}
        weights.write_bytes(bytes(weights.stat().st_size // 2))  # shorter, in place: reading what was cut off is fatal
        assert all((each == before[name]).all() for name, each in model.network.state_dict().items())


def test_a_context_can_be_bounded() -> None:
    assert load("selftest")[0].facts.context_tokens == 1024
    assert load("selftest", max_context_tokens=100)[0].facts.context_tokens == 100


@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt2", "selftest"])
def test_complexity_is_what_torch_counts(small_models: SmallModels, name: str) -> None:
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import AutoModelForCausalLM

    (model,) = load(small_models.folders.get(name, name))
    # torch counts neither the fused attention of CPUs nor packed weights
    folder = small_models.folders.get(name, SELFTEST_FOLDER)
    network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    tokens = 400
    with FlopCounterMode(display=False) as counter:
        network(input_ids=torch.zeros(1, tokens, dtype=torch.long))
    assert complexity(model.facts.shape, tokens - 10, 10) == pytest.approx(counter.get_total_flops() / 1e6, rel=0.01)


@pytest.mark.usefixtures("small_models")
def test_two_models_of_one_name_are_refused(copy: Path, tmp_path: Path) -> None:
    other = shutil.copytree(copy, tmp_path / "elsewhere" / "copy")
    with pytest.raises(ConfigMalformed, match="both named 'copy'"):
        load(copy, other)


def test_an_unknown_architecture_is_unsupported(copy: Path) -> None:
    change_config(copy, model_type="llama9000", architectures=["Llama9000ForCausalLM"])
    with pytest.raises(ModelUnsupported, match="llama9000"):
        load(copy)


def test_a_model_that_writes_no_text_is_unsupported(copy: Path) -> None:
    change_config(copy, model_type="vit", architectures=["ViTModel"])
    with pytest.raises(ModelUnsupported, match="copy"):
        load(copy)


def test_a_model_whose_work_cannot_be_computed_is_unsupported(tmp_path: Path) -> None:
    from transformers import RwkvConfig, RwkvForCausalLM

    config = RwkvConfig(vocab_size=2048, hidden_size=16, num_hidden_layers=2, attention_hidden_size=16)
    RwkvForCausalLM(config).save_pretrained(tmp_path / "rnn")
    shutil.copy(SELFTEST_FOLDER / "tokenizer.json", tmp_path / "rnn")
    with pytest.raises(ModelUnsupported, match="a rwkv model's work cannot be computed"):
        load(tmp_path / "rnn")


def test_an_error_that_nobody_foresaw_is_still_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from cactus_mesh.engine.runner import examining

    def fail(*_: object) -> None:
        raise ZeroDivisionError("no layers")

    monkeypatch.setattr(examining, "model_digest", fail)
    with pytest.raises(ModelUnsupported, match="selftest cannot be loaded: ZeroDivisionError: no layers"):
        load("selftest")


def test_missing_weights_are_not_made_up(copy: Path) -> None:
    change_config(copy, num_hidden_layers=6)
    with pytest.raises(ModelMalformed, match="do not belong to its config"):
        load(copy)


def test_weights_of_another_shape_are_malformed(copy: Path) -> None:
    change_config(copy, hidden_size=384)
    with pytest.raises((ModelMalformed, ModelUnsupported), match="copy"):
        load(copy)


def test_a_broken_tokenizer_is_malformed(copy: Path) -> None:
    (copy / "tokenizer.json").write_text('{"version": "1.0"}', encoding="utf-8")
    with pytest.raises(ModelMalformed, match="the tokenizer of copy"):
        load(copy)


def test_a_model_without_a_tokenizer_is_malformed(copy: Path) -> None:
    (copy / "tokenizer.json").unlink()
    (copy / "tokenizer_config.json").unlink()
    with pytest.raises(ModelMalformed, match="the tokenizer of copy"):
        load(copy)


def test_a_model_that_does_not_fit_into_memory_says_so(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers

    def no_memory(*_: object, **__: object) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: 9 bytes")

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", no_memory)
    with pytest.raises(ModelTooLarge, match="does not fit into this machine's memory"):
        load(copy)


def test_a_model_of_the_hub_is_not_fetched_unless_allowed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelMissing, match=r"somebody/some-model is not on this machine and downloading is off"):
        load("somebody/some-model")


def test_a_device_that_is_not_here_is_named() -> None:
    with pytest.raises(ConfigMalformed, match=r"engine\.device 'warp' cannot be used here"):
        load("selftest", device="warp")


def test_the_probe_refuses_a_model_that_cannot_read_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that counts positions itself, over all texts together."""
    from transformers import LlamaForCausalLM

    honest = LlamaForCausalLM.forward

    def own_count(self: object, **inputs: object) -> object:
        return honest(self, **inputs | {"position_ids": None})

    monkeypatch.setattr(LlamaForCausalLM, "forward", own_count)
    with pytest.raises(ModelUnsupported, match="reads texts in pieces"):
        load("selftest")


def test_layers_of_an_unknown_kind_are_refused_by_name(copy: Path) -> None:
    change_config(copy, layer_types=["chunked_attention"] * 5)
    with pytest.raises(ModelUnsupported, match="chunked_attention"):
        load(copy)


def test_memory_bounds_the_context_that_is_offered() -> None:
    (model,) = load("selftest", cache_mib=1)
    assert model.facts.context_tokens == model.room.tokens < 1024
    with pytest.raises(ModelTooLarge, match=r"engine\.memory_mib \(10\) .* no room for a single token"):
        load("selftest", memory_mib=10)


async def test_what_fails_in_the_worker_reaches_the_caller_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b'{"auto_map": {}}')
    with pytest.raises(ModelRefused, match="never runs code"):
        async with open_engine([str(tmp_path)]):
            pytest.fail("it never gets here")


@pytest.mark.parametrize("bad", [{"slots": 0}, {"threads": -1}, {"stall_seconds": 0.0}, {"chunk_tokens": -5}])
def test_settings_that_make_no_sense_are_malformed(bad: dict[str, object]) -> None:
    with pytest.raises(ConfigMalformed, match=next(iter(bad))):
        EngineSettings(**bad)
