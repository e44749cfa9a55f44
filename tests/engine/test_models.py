"""A model's files: found, refused by name, and digested by a rule that another language can follow."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from cactus_mesh.engine.models import check_folder, hub_id, listing_digest, local_folder, model_digest
from cactus_mesh.errors import ModelMalformed, ModelMissing, ModelRefused, ModelUnsupported

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "model_digest.json").read_text(encoding="utf-8"))
TENSOR = {"weight": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}


def safetensors(header: object = TENSOR, data: bytes = bytes(8)) -> bytes:
    encoded = json.dumps(header).encode()
    return len(encoded).to_bytes(8, "little") + encoded + data


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A whole model as far as its files go."""
    (tmp_path / "config.json").write_bytes(b'{"model_type": "llama"}')
    (tmp_path / "tokenizer.json").write_bytes(b"{}")
    (tmp_path / "model.safetensors").write_bytes(safetensors())
    return tmp_path


def digest(folder: Path, dtype: str = "float32") -> bytes:
    return model_digest(check_folder("tiny", folder), dtype)


def test_the_digest_follows_its_written_rule(folder: Path) -> None:
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool.jinja").write_bytes(b"{{ 1 }}")
    (folder / "README.md").write_bytes(b"not part of the model")
    names = ["additional_chat_templates/tool.jinja", "config.json", "model.safetensors", "tokenizer.json"]
    contents = [(name, (folder / name).read_bytes()) for name in names]
    lines = [f"{name}\0{len(content)}\0{hashlib.sha256(content).hexdigest()}\n" for name, content in contents]
    expected = hashlib.sha256(("cactus-mesh/model/1\0dtype=float32\n" + "".join(lines)).encode()).digest()
    assert digest(folder) == expected


@pytest.mark.parametrize("vector", VECTORS["models"], ids=lambda vector: vector["digest"][:8])
def test_the_digests_are_those_of_the_vectors(vector: dict[str, object]) -> None:
    files = [(file["name"], file["size"], file["sha256"]) for file in reversed(vector["files"])]
    assert listing_digest(vector["dtype"], files).hex() == vector["digest"]


def test_the_selftest_model_is_the_one_that_the_network_knows() -> None:
    folder = check_folder(*local_folder("selftest"))
    assert folder == check_folder(*local_folder("cactus-selftest"))
    assert folder.name == "cactus-selftest"
    assert model_digest(folder, "float32").hex() == VECTORS["models"][0]["digest"]


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_any_change_of_a_file_changes_the_digest(folder: Path, name: str) -> None:
    before = digest(folder)
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content.replace(b"}", b" }", 1) if name != "model.safetensors" else content[:-1] + b"x")
    assert digest(folder) != before


def test_a_file_more_or_another_dtype_changes_the_digest(folder: Path) -> None:
    before = digest(folder)
    assert digest(folder, "bfloat16") != before
    (folder / "generation_config.json").write_bytes(b"{}")
    assert digest(folder) != before


def test_weights_in_several_files_are_all_part_of_the_model(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    (folder / "model-00002-of-00002.safetensors").write_bytes(safetensors())
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    assert len(check_folder("tiny", folder).files) == 5
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ModelMalformed, match="which is not a safetensors file beside it"):
        check_folder("tiny", folder)


def test_an_index_that_points_out_of_the_folder_is_malformed(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder.parent / "outside.safetensors")
    index = {"weight_map": {"a": "../outside.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(ModelMalformed, match="outside"):
        check_folder("tiny", folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pkl"])
def test_a_model_with_pickled_weights_only_is_refused_by_name(folder: Path, name: str) -> None:
    (folder / "model.safetensors").rename(folder / name)
    with pytest.raises(ModelRefused, match=f"only as {name}, a format that can run code"):
        check_folder("tiny", folder)


def test_a_pickle_beside_safetensors_is_neither_read_nor_part_of_the_model(folder: Path) -> None:
    before = digest(folder)
    (folder / "training_args.bin").write_bytes(b"\x80\x04pickle")
    assert digest(folder) == before


@pytest.mark.parametrize("magic", [b"PK\x03\x04", b"\x80\x02", b"\x80\x05"])
def test_a_pickle_that_calls_itself_safetensors_is_refused(folder: Path, magic: bytes) -> None:
    (folder / "model.safetensors").write_bytes(magic + bytes(100))
    with pytest.raises(ModelRefused, match="a pickle with another name"):
        check_folder("tiny", folder)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"short",
        bytes(8),
        (2**63).to_bytes(8, "little") + b"{}",
        safetensors()[:-1],
        safetensors() + b"more",
        safetensors([]),
        safetensors({"weight": 1}),
        safetensors({"weight": {"data_offsets": [0]}}),
        (4).to_bytes(8, "little") + b"nope",
    ],
)
def test_damaged_weights_are_malformed(folder: Path, content: bytes) -> None:
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelMalformed, match=r"get it again|get the file again"):
        check_folder("tiny", folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "generation_config.json"])
def test_a_model_that_brings_code_is_refused_by_name(folder: Path, name: str) -> None:
    (folder / name).write_text('{"inner": [{"auto_map": {"AutoModel": "evil.Model"}}]}', encoding="utf-8")
    with pytest.raises(ModelRefused, match=f"auto_map in {name}"):
        check_folder("tiny", folder)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"quantization_config": {"bits": 4}}, "quantised"),
        ({"is_encoder_decoder": True}, "encoder-decoder"),
        ({"num_local_experts": 8}, "mixture of experts"),
    ],
)
def test_models_that_the_engine_does_not_run_are_named_for_what_they_are(
    folder: Path, config: dict[str, object], says: str
) -> None:
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ModelUnsupported, match=says):
        check_folder("tiny", folder)


def test_an_adapter_is_not_a_model(folder: Path) -> None:
    (folder / "adapter_config.json").touch()
    with pytest.raises(ModelUnsupported, match="merge it into its base model"):
        check_folder("tiny", folder)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b"[" * 100_000])
def test_a_config_that_is_none_is_malformed(folder: Path, content: bytes) -> None:
    (folder / "config.json").write_bytes(content)
    with pytest.raises(ModelMalformed, match=r"config\.json is malformed"):
        check_folder("tiny", folder)


def test_a_folder_that_holds_no_model_is_told_apart_from_none(tmp_path: Path) -> None:
    with pytest.raises(ModelMissing, match="there is no model folder"):
        local_folder(str(tmp_path / "nothing"))
    with pytest.raises(ModelMalformed, match=r"it has no config\.json"):
        check_folder("tiny", tmp_path)
    (tmp_path / "config.json").write_bytes(b"{}")
    with pytest.raises(ModelMalformed, match="has no weights"):
        check_folder("tiny", tmp_path)


def test_a_name_with_one_slash_is_a_hub_id_unless_it_is_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert hub_id("owner/name") == "owner/name"
    (tmp_path / "owner" / "name").mkdir(parents=True)
    assert hub_id("owner/name") is None
    assert [hub_id(word) for word in ("selftest", "./x/y", "/a/b", "a/b/c", "../b", "a/..")] == [None] * 6


def test_code_of_the_hub_that_a_config_asks_for_is_refused(folder: Path) -> None:
    (folder / "config.json").write_bytes(b'{"text_config": {"_attn_implementation": "somebody/kernel"}}')
    with pytest.raises(ModelRefused, match=r"run code of the hub \(_attn_implementation 'somebody/kernel'"):
        check_folder("tiny", folder)


def test_a_config_that_would_never_be_built_is_malformed(folder: Path) -> None:
    (folder / "config.json").write_bytes(b'{"num_hidden_layers": 1000000000}')
    with pytest.raises(ModelMalformed, match="says num_hidden_layers 1000000000"):
        check_folder("tiny", folder)


def test_a_config_however_deep_is_searched_or_malformed(folder: Path) -> None:
    for depth in (100, 700, 940, 980, 5_000):
        (folder / "config.json").write_bytes(b'{"a":' * depth + b'{"auto_map": 1}' + b"}" * depth)
        with pytest.raises((ModelRefused, ModelMalformed)):
            check_folder("tiny", folder)


@pytest.mark.skipif(os.name != "posix", reason="has no such files")
def test_what_is_no_file_is_not_waited_for(folder: Path) -> None:
    os.mkfifo(folder / "generation_config.json")
    with pytest.raises(ModelMalformed, match=r"generation_config.json is no file"):
        check_folder("tiny", folder)
