"""Models of a hub: what breaks off goes on where it was, what is not what was listed is thrown away."""

from __future__ import annotations

import hashlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from cactus_mesh.cli import main
from cactus_mesh.engine import EngineSettings, hub
from cactus_mesh.engine.models import SELFTEST_FOLDER, WEIGHTS, check_folder, model_digest
from cactus_mesh.errors import ModelMissing
from tests.engine.fake_hub import COMMIT, NAME, FakeHub, open_hub

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Models = Callable[..., dict[str, Any]]

HALF = (SELFTEST_FOLDER / WEIGHTS).stat().st_size // 2
WHOLE = (SELFTEST_FOLDER / WEIGHTS).stat().st_size


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with open_hub(SELFTEST_FOLDER) as found:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", found.url)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(hub, "_PAUSE_SECONDS", 0.01)
        yield found


@pytest.fixture
def models(tmp_path: Path) -> Models:
    def run(*arguments: str, status: int = 0) -> dict[str, Any]:
        done = CliRunner().invoke(main, ["--home", str(tmp_path / "home"), "models", *arguments, "--json"])
        assert done.exit_code == status, done.output
        assert "MB" not in done.stderr, "no progress beside JSON"
        return json.loads(done.stdout)

    return run


def test_a_model_is_added_from_the_hub_verified_served_and_deleted(
    there: FakeHub, models: Models, tmp_path: Path
) -> None:
    added = models("add", NAME)
    expected = model_digest(check_folder("any", SELFTEST_FOLDER), "float32").hex()
    assert (added["name"], added["digest"]) == (NAME, expected)
    assert models("verify") == {"verified": [NAME]}
    weights = tmp_path / "cache" / "models--some--model" / "snapshots" / COMMIT / WEIGHTS
    assert weights.read_bytes() == there.files[WEIGHTS]
    models("add", NAME)
    assert there.served[WEIGHTS] == WHOLE, "it was fetched once"
    assert models("remove", NAME, "--delete")["freed_bytes"] >= WHOLE
    assert not weights.exists()


def test_a_connection_that_breaks_again_and_again_costs_no_byte_twice(there: FakeHub, models: Models) -> None:
    there.cut_after = [1_000_000] * 4
    models("add", NAME)
    assert there.served[WEIGHTS] == WHOLE
    assert there.ranges == [f"{WEIGHTS} {at}" for at in (1_000_000, 2_000_000, 3_000_000, 4_000_000)]


def test_what_is_given_up_is_gone_on_with_by_the_next_command(there: FakeHub, models: Models) -> None:
    there.cut_after = [HALF] + [0] * 5
    error = models("add", NAME, status=2)["error"]
    assert error["code"] == "model.missing"
    assert "did not come to its end" in error["message"]
    assert models("list") == {"models": []}
    there.cut_after = []
    models("add", NAME)
    assert there.served[WEIGHTS] == WHOLE
    assert there.ranges[-1] == f"{WEIGHTS} {HALF}"


def test_a_hub_that_cannot_go_on_gives_the_file_again(there: FakeHub, models: Models) -> None:
    there.cut_after, there.ignores_ranges = [HALF], True
    models("add", NAME)
    assert models("verify") == {"verified": [NAME]}
    assert there.served[WEIGHTS] == HALF + WHOLE


@pytest.mark.parametrize("file", [WEIGHTS, "config.json"])
def test_other_bytes_than_were_listed_are_thrown_away(
    there: FakeHub, models: Models, tmp_path: Path, file: str
) -> None:
    true = there.files[file]
    there.sent[file] = true[:-1] + bytes([true[-1] ^ 1])
    error = models("add", NAME, status=2)["error"]
    assert error["code"] == "model.malformed"
    assert f"what came as {file} of {NAME} is not what the hub lists" in error["message"]
    assert models("list") == {"models": []}
    assert not list((tmp_path / "cache").rglob("*.part"))
    there.sent = {}
    models("add", NAME)


def test_more_bytes_than_were_listed_are_not_kept(there: FakeHub, models: Models, tmp_path: Path) -> None:
    there.sent[WEIGHTS] = there.files[WEIGHTS] + b"x" * 100
    assert "more came as" in models("add", NAME, status=2)["error"]["message"]
    assert not list((tmp_path / "cache").rglob("*.part"))


def test_a_file_that_the_disk_has_forgotten_is_fetched_again(there: FakeHub, models: Models, tmp_path: Path) -> None:
    models("add", NAME)
    weights = (tmp_path / "cache" / "models--some--model" / "snapshots" / COMMIT / WEIGHTS).resolve()
    data = bytearray(weights.read_bytes())
    data[HALF] ^= 1
    weights.write_bytes(data)
    assert "has changed" in models("verify", status=2)["error"]["message"]
    models("add", NAME)
    assert models("verify") == {"verified": [NAME]}


def refuse_pickles(there: FakeHub) -> None:
    there.files["pytorch_model.bin"] = there.files.pop(WEIGHTS)


def refuse_code(there: FakeHub) -> None:
    there.files["config.json"] = b'{"auto_map": {"AutoModel": "evil.Model"}}'


def refuse_adapter(there: FakeHub) -> None:
    there.files["adapter_config.json"] = b"{}"


def refuse_huge(there: FakeHub) -> None:
    there.declared[WEIGHTS] = 1 << 60


def refuse_gated(there: FakeHub) -> None:
    there.status, there.code = 401, "GatedRepo"


def refuse_unknown(there: FakeHub) -> None:
    there.status, there.code = 404, "RepoNotFound"


def refuse_ill(there: FakeHub) -> None:
    there.status = 503


def refuse_paths(there: FakeHub) -> None:
    there.files["../../evil.safetensors"] = there.files.pop(WEIGHTS)


@pytest.mark.parametrize(
    ("change", "code", "says"),
    [
        (refuse_pickles, "model.refused", "has its weights only as pytorch_model.bin"),
        (refuse_code, "model.refused", "wants to run code of its own (auto_map in config.json)"),
        (refuse_adapter, "model.unsupported", "is an adapter"),
        (refuse_huge, "model.too_large", "takes 1,152,921,504.6 GB more"),
        (refuse_gated, "model.missing", "given only to those who accepted its terms"),
        (refuse_unknown, "model.missing", "the hub has no model some/model, or it is private"),
        (refuse_ill, "model.missing", "answered 503; try again later"),
        (refuse_paths, "model.malformed", "has no weights"),
    ],
)
def test_what_cannot_be_served_is_refused_before_its_weights_are_fetched(
    there: FakeHub, models: Models, change: Callable[[FakeHub], None], code: str, says: str
) -> None:
    change(there)
    error = models("add", NAME, status=2)["error"]
    assert error["code"] == code
    assert says in error["message"]
    assert not set(there.served) - {"config.json", "generation_config.json", "tokenizer_config.json"}


def test_without_the_hub_what_was_fetched_before_is_taken(there: FakeHub, models: Models) -> None:
    models("add", NAME)
    there.status = 503
    assert models("add", NAME)["name"] == NAME


def test_the_engine_fetches_only_what_was_never_here_and_only_when_allowed(there: FakeHub) -> None:
    from cactus_mesh.engine.runner.examining import _find

    with pytest.raises(ModelMissing, match="fetch it with: cactus-mesh models add some/model"):
        _find(NAME, EngineSettings())
    assert _find(NAME, EngineSettings(allow_download=True)).name == NAME
    there.status = 503
    _find(NAME, EngineSettings(allow_download=True))
    assert there.served[WEIGHTS] == WHOLE


def read(terminal: int, seconds: float) -> bytes:
    return os.read(terminal, 1 << 16) if select.select([terminal], [], [], seconds)[0] else b""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a terminal and signals of Unix")
def test_ctrl_c_ends_a_download_at_once_and_the_next_goes_on(there: FakeHub, tmp_path: Path) -> None:
    """With a bar on a terminal, and a hub that falls silent."""
    import pty

    there.hold = threading.Event()
    digest = hashlib.sha256(there.files[WEIGHTS]).hexdigest()
    terminal, its_end = pty.openpty()
    command = [sys.executable, "-m", "cactus_mesh", "--home", str(tmp_path / "home"), "models", "add", NAME]
    environment = os.environ | {"HF_ENDPOINT": there.url, "HF_HUB_CACHE": str(tmp_path / "cache"), "TERM": "xterm"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=its_end, env=environment) as process:
        os.close(its_end)
        assert there.half.wait(30)
        shown = b""
        while not any(part.stat().st_size for part in (tmp_path / "cache").rglob(f"{digest}.part")):
            shown += read(terminal, 0.05)
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
    shown += read(terminal, 5)
    os.close(terminal)
    assert b"fetching some/model" in shown
    assert f"of {sum(map(len, there.files.values())) / 1e6:,.1f} MB".encode() in shown
    (part,) = (tmp_path / "cache").rglob("*.part")
    assert 0 < part.stat().st_size <= HALF
    there.hold.set()
    there.hold = None
    done = subprocess.run([*command, "--json"], capture_output=True, check=True, env=environment, timeout=60)
    assert json.loads(done.stdout)["name"] == NAME
    assert done.stderr == b""
    assert len(there.ranges) == 1


def test_a_sharded_model_is_fetched_without_what_lies_beside_it(there: FakeHub, models: Models) -> None:
    shards = [f"model-0000{at}-of-00002.safetensors" for at in (1, 2)]
    header = json.dumps({"w": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}}).encode()
    there.files[shards[0]] = there.files.pop(WEIGHTS)
    there.files[shards[1]] = len(header).to_bytes(8, "little") + header
    there.files["model.fp16.safetensors"] = b"another form of the same"
    index = {"weight_map": {f"w{at}": shard for at, shard in enumerate(shards)}}
    there.files["model.safetensors.index.json"] = json.dumps(index).encode()
    models("add", NAME)
    assert set(shards) < set(there.served)
    assert "model.fp16.safetensors" not in there.served


def test_where_there_are_no_symbolic_links_the_files_themselves_lie_there(
    there: FakeHub, models: Models, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def no_links(*_: object) -> None:
        raise OSError("a required privilege is not held by the client")

    monkeypatch.setattr("pathlib.Path.symlink_to", no_links)
    models("add", NAME)
    models("add", NAME)
    assert there.served[WEIGHTS] == WHOLE
    snapshot = tmp_path / "cache" / "models--some--model" / "snapshots" / COMMIT
    assert not [path for path in snapshot.iterdir() if path.is_symlink()]
    shutil.rmtree(snapshot)
