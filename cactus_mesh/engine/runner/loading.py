"""From a model's name to a model in memory, with every failure in words that name the cause.

Refuses what would compute wrongly in silence: missing weights, and architectures that cannot read a prompt in pieces.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import torch
import transformers
from safetensors import SafetensorError
from transformers import AutoModel

from cactus_mesh.engine.runner.devices import memory_of
from cactus_mesh.engine.runner.encoders import LoadedEncoder
from cactus_mesh.engine.runner.examining import examine_models, load_tokenizer, stamps_of, told
from cactus_mesh.engine.runner.pieces import TokenPieces
from cactus_mesh.engine.runner.probe import first_line as _first_line
from cactus_mesh.engine.runner.probe import prepare
from cactus_mesh.errors import (
    ConfigMalformed,
    ModelMalformed,
    ModelRefused,
    ModelTooLarge,
    ModelUnsupported,
)
from cactus_mesh.messages import MAX_INPUTS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from cactus_mesh.engine.frames import ModelFacts
    from cactus_mesh.engine.models import ModelFolder
    from cactus_mesh.engine.runner.examining import Examined, Room
    from cactus_mesh.engine.runner.passes import Passes
    from cactus_mesh.engine.settings import EngineSettings


@dataclass(frozen=True, slots=True)
class LoadedModel:
    facts: ModelFacts
    network: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    end_ids: frozenset[int]
    pieces: TokenPieces
    vocabulary: int
    """Rows of the embedding: token ids below it can be read."""
    passes: Passes
    room: Room


def prepare_process(settings: EngineSettings) -> EngineSettings:
    """Once, before anything else: the settings with the device that "auto" means.  Raises `ConfigMalformed`."""
    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    torch.set_num_threads(settings.threads or max(1, _processors() // 2))
    return replace(settings, device=device_of(settings.device))


def load_models(words: Sequence[str], settings: EngineSettings) -> list[LoadedModel | LoadedEncoder]:
    """All of them, whether they fit together or not.  Raises a `UsageError` with the cause."""
    settings = prepare_process(settings)
    memory = memory_of(settings.device, settings.memory_mib)
    return [load(found, settings) for found in examine_models(words, settings, memory)]


def _processors() -> int:
    """Those that this process may use, which in a container are fewer than there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def device_of(wanted: str) -> str:
    """Torch's name of the device; for "auto" a CUDA card where there is one.  Raises `ConfigMalformed`."""
    device = wanted if wanted != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigMalformed(f"engine.device {device!r} cannot be used here: {_first_line(error)}") from None
    return device


def load(examined: Examined, settings: EngineSettings) -> LoadedModel | LoadedEncoder:
    """Raises a `UsageError` with the cause."""
    with told(examined.word):
        return _load(examined, settings)


def _load(examined: Examined, settings: EngineSettings) -> LoadedModel | LoadedEncoder:
    _refuse_changed(examined)
    network = _load_network(examined.folder, settings, examined.kind)
    tokenizer = load_tokenizer(examined.folder)
    _refuse_changed(examined)
    if examined.room is None:
        return LoadedEncoder(examined.facts, network, tokenizer, examined.facts.context_tokens // MAX_INPUTS)
    passes, _ = prepare(examined.name, network)
    end_ids = _end_ids(network, tokenizer)
    return LoadedModel(
        facts=examined.facts,
        network=network,
        tokenizer=tokenizer,
        end_ids=end_ids,
        pieces=TokenPieces(tokenizer, end_ids),
        vocabulary=cast("torch.Tensor", network.get_input_embeddings().weight).shape[0],
        passes=passes,
        room=examined.room,
    )


def _refuse_changed(examined: Examined) -> None:
    """What is read must be what has the digest."""
    if stamps_of(examined.folder) != examined.stamps:
        raise ModelRefused(f"the files of {examined.name} were changed while it was served; restart the node")


def _load_network(folder: ModelFolder, settings: EngineSettings, kind: Any) -> PreTrainedModel:
    try:
        loaded: Any = kind.from_pretrained(
            folder.path,
            dtype=getattr(torch, settings.dtype),
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
        network: PreTrainedModel = loaded[0].to(settings.device)
        _copy_from_files(network)
        report: dict[str, Any] = loaded[1]
    except SafetensorError as error:
        raise ModelMalformed(f"the weights of {folder.name} are damaged ({error}); get them again") from None
    except (MemoryError, torch.OutOfMemoryError):
        raise _too_large(folder) from None
    except ImportError as error:
        raise ModelUnsupported(f"{folder.name} needs a library that is missing: {_first_line(error)}") from None
    except Exception as error:  # what transformers raises is not documented
        if "allocate memory" in str(error):
            raise _too_large(folder) from None
        raise ModelUnsupported(f"{folder.name} cannot be loaded: {_first_line(error)}") from None
    for cause in ("missing_keys", "mismatched_keys", "error_msgs"):
        wrong = [each for each in map(str, report[cause]) if kind is not AutoModel or not each.startswith("pooler.")]
        if wrong:
            raise ModelMalformed(
                f"the weights of {folder.name} do not belong to its config.json "
                f"({len(wrong)} {cause}, such as {min(wrong)}); get them again"
            )
    network.eval()  # type: ignore[no-untyped-call]
    return network


def _copy_from_files(network: PreTrainedModel) -> None:
    """What was read is mapped: a file that somebody writes to would change a model at work, or end the process."""
    if network.device.type == "cpu":
        for tensor in (*network.parameters(), *network.buffers()):
            tensor.data = tensor.data.clone()


def _end_ids(network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """As the model's generation config says, which transformers fills from config.json when there is none."""
    known = network.generation_config.eos_token_id
    if known is None:
        known = tokenizer.eos_token_id
    if known is None:
        return frozenset()
    ids = frozenset(known if isinstance(known, list) else [known])
    if not all(isinstance(each, int) for each in ids):
        raise ModelMalformed("eos_token_id in generation_config.json or config.json is no number of a token")
    return ids


def _too_large(folder: ModelFolder) -> ModelTooLarge:
    size = sum((folder.path / name).stat().st_size for name in folder.files)
    return ModelTooLarge(
        f"{folder.name} ({size / 1e9:.1f} GB on disk) does not fit into this machine's memory; choose a smaller model"
    )
