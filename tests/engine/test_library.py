"""The operator's list of models, by its commands: what is added is what is served, and what changed is told."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import trio
from click.testing import CliRunner

from cactus_mesh.cli import main
from cactus_mesh.engine import EngineSettings, hub, open_engine
from cactus_mesh.engine.library import Library, find
from cactus_mesh.engine.models import SELFTEST_FOLDER, check_folder, model_digest
from cactus_mesh.errors import ConfigMalformed, ModelMissing, ModelRefused

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    def run(*arguments: str, status: int = 0) -> dict[str, Any]:
        done = CliRunner().invoke(main, ["--home", str(tmp_path / "home"), "models", *arguments, "--json"])
        assert done.exit_code == status, done.output
        return json.loads(done.stdout.splitlines()[-1])

    return run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return shutil.copytree(SELFTEST_FOLDER, tmp_path / "mine")


def test_a_model_that_was_added_is_listed_with_its_digest(run: Run, folder: Path) -> None:
    added = run("add", str(folder))
    assert run("list") == {"models": [added]}
    assert added["digest"] == model_digest(check_folder("mine", folder), "float32").hex()
    assert run("list", "--dtype", "bfloat16")["models"][0]["digest"] != added["digest"]
    assert run("verify") == {"verified": ["mine"]}


def test_files_that_changed_are_named(run: Run, folder: Path) -> None:
    run("add", str(folder))
    (folder / "generation_config.json").write_text("{}", encoding="utf-8")
    (folder / "chat_template.jinja").unlink()
    said = run("verify", "mine", status=2)["error"]
    assert said["code"] == "model.refused"
    assert said["message"] == "mine: chat_template.jinja is gone; mine: generation_config.json has changed"


def test_a_model_with_another_digest_than_was_wanted_is_not_added(run: Run, folder: Path) -> None:
    assert "is not added" in run("add", str(folder), "--digest", "00", status=2)["error"]["message"]
    assert run("list") == {"models": []}
    run("add", str(folder), "--digest", model_digest(check_folder("mine", folder), "float32").hex()[:12].upper())


def test_what_is_removed_is_off_the_list_and_a_folder_of_ones_own_stays(run: Run, folder: Path) -> None:
    run("add", str(folder))
    assert run("remove", "mine", "--delete")["freed_bytes"] == 0
    assert run("list") == {"models": []}
    assert folder.exists()
    assert "the list, which has: none" in run("remove", "mine", status=2)["error"]["message"]


def test_one_model_that_is_gone_does_not_hide_what_became_of_the_others(run: Run, folder: Path, tmp_path: Path) -> None:
    other = shutil.copytree(folder, tmp_path / "other")
    run("add", str(folder))
    run("add", str(other))
    shutil.rmtree(folder)
    (other / "generation_config.json").write_text("{}", encoding="utf-8")
    said = run("verify", status=2)["error"]["message"]
    assert "mine: there is no model folder" in said
    assert "other: generation_config.json has changed" in said
    assert run("verify", "mine", status=2)["error"]["code"] == "model.missing"


def test_a_name_that_another_model_has_is_not_taken_from_it(run: Run, folder: Path, tmp_path: Path) -> None:
    added = run("add", str(folder))
    other = shutil.copytree(folder, tmp_path / "elsewhere" / "mine")
    assert "has a model 'mine' already, from" in run("add", str(other), status=2)["error"]["message"]
    assert run("add", str(folder)) == added
    assert run("list") == {"models": [added]}


def test_unsafe_models_are_not_added(run: Run, folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert run("add", str(folder), status=2)["error"]["code"] == "model.refused"


def test_a_damaged_list_says_so(tmp_path: Path) -> None:
    (tmp_path / "models.json").write_text("[{", encoding="utf-8")
    with pytest.raises(ConfigMalformed, match="is damaged"):
        Library(tmp_path / "models.json")


def test_the_engine_refuses_a_listed_model_whose_files_changed(run: Run, folder: Path, tmp_path: Path) -> None:
    run("add", str(folder))
    run("add", "selftest")
    words, expected = Library(tmp_path / "home" / "models.json").words(["mine", "cactus-selftest", "x/y"], "float32")
    assert words == [str(folder), "selftest", "x/y"]
    assert set(expected) == {str(folder), "selftest"}
    (folder / "generation_config.json").write_text("{}", encoding="utf-8")

    async def serve() -> None:
        async with open_engine(words[:1], EngineSettings(expected=expected)):
            pytest.fail("it never gets here")

    with pytest.raises(ModelRefused, match="is not what it was when it was added"):
        trio.run(serve)


def test_a_model_of_the_hub_is_found_in_its_cache_and_deleted_from_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cache = tmp_path / "models--some--model"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelMissing, match="add it: cactus-mesh models add some/model"):
        find("some/model")
    snapshot = shutil.copytree(SELFTEST_FOLDER, cache / "snapshots" / ("0" * 40))
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("0" * 40, encoding="utf-8")
    found = find("some/model")
    assert (found.name, found.path) == ("some/model", snapshot.resolve())
    assert hub.delete("some/model") > 1_000_000
    assert not snapshot.exists()
