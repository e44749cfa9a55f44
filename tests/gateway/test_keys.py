"""API keys: kept as hashes, asked for when there are any, taken back at once."""

from __future__ import annotations

import stat
import sys

import pytest

from cactus_mesh.errors import GatewayKeyUnknown, KeyFileExposed, StateMalformed
from cactus_mesh.gateway import keys
from cactus_mesh.gateway.guard import WRONG_KEYS_PER_MINUTE, Rates, host_name, is_loopback
from cactus_mesh.gateway.keys import Keyring, add_key, read_keys, remove_key
from tests.gateway.conftest import ask, open_site


def bearer(key):
    return {"authorization": f"Bearer {key}"}


def test_a_key_is_not_in_its_file_which_is_private(tmp_path):
    path = tmp_path / "keys.json"
    key = add_key(path, "laptop")
    assert key.rpartition("_")[2] not in path.read_text()
    assert [each.name for each in read_keys(path)] == ["laptop"]
    if sys.platform != "win32":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_each_key_opens_and_nothing_else_does(tmp_path):
    path = tmp_path / "keys.json"
    first, second = add_key(path, "one"), add_key(path, "two")
    ring = Keyring(path)
    assert (ring.holder(first).name, ring.holder(second).name) == ("one", "two")
    mixed = "_".join([*first.split("_")[:2], second.split("_", 2)[2]])
    for wrong in ("", "cm", "cm_", "cm__", first[:-1], first + "x", first.upper(), "sk_" + first[3:], mixed):
        assert ring.holder(wrong) is None


def test_names_are_used_once_and_keys_go_by_name_or_id(tmp_path):
    path = tmp_path / "keys.json"
    add_key(path, "one")
    for name in ("one", "", "x" * 65, "a\x1bb"):
        with pytest.raises(GatewayKeyUnknown):
            add_key(path, name)
    remove_key(path, read_keys(path)[0].id)
    assert read_keys(path) == []
    with pytest.raises(GatewayKeyUnknown, match="keys list"):
        remove_key(path, "one")


@pytest.mark.skipif(sys.platform == "win32", reason="modes are POSIX's")
def test_a_file_that_others_can_read_is_refused(tmp_path):
    path = tmp_path / "keys.json"
    add_key(path, "one")
    path.chmod(0o640)
    with pytest.raises(KeyFileExposed, match="chmod 600"):
        Keyring(path)


def test_a_damaged_file_is_refused_by_name(tmp_path):
    path = tmp_path / "keys.json"
    path.write_text("{}")
    path.chmod(0o600)
    with pytest.raises(StateMalformed, match=r"keys\.json"):
        read_keys(path)


async def test_once_there_is_a_key_everybody_needs_one(tmp_path, monkeypatch):
    monkeypatch.setattr(keys, "LOOK_AGAIN_SECONDS", 0.0)
    path = tmp_path / "keys.json"
    async with open_site(keys_file=path) as site:
        assert (await site.http.get("/v1/models")).status_code == 200
        key = add_key(path, "laptop")
        for headers in ({}, bearer("wrong"), bearer(key + "x"), {"authorization": f"Basic {key}"}):
            reply = await site.http.get("/v1/models", headers=headers)
            assert (reply.status_code, reply.json()["error"]["code"]) == (401, "gateway.key_rejected")
        assert (await site.http.get("/v1/models", headers=bearer(key))).status_code == 200
        assert (await site.http.get("/metrics")).status_code == 401
        assert (await site.http.get("/healthz")).status_code == 200
        add_key(path, "other")
        remove_key(path, "laptop")
        assert (await site.http.get("/v1/models", headers=bearer(key))).status_code == 401


async def test_whoever_guesses_is_slowed_down_and_nothing_is_spent(tmp_path):
    add_key(tmp_path / "keys.json", "laptop")
    async with open_site(keys_file=tmp_path / "keys.json") as site:
        statuses = [
            (await site.http.post("/v1/chat/completions", json=ask(), headers=bearer(f"cm_{at}_x"))).status_code
            for at in range(WRONG_KEYS_PER_MINUTE)
        ]
        assert set(statuses) == {401, 429}
        assert site.engine.started == 0


def test_a_rate_fills_again_and_forgets_the_oldest():
    rates = Rates(60)
    for _ in range(10):
        assert rates.wait("a", 0.0) == 0
        rates.take("a", 0.0)
    assert rates.wait("a", 0.0) == pytest.approx(1.0)
    assert rates.wait("a", 1.0) == 0
    assert rates.wait("b", 0.0) == 0


@pytest.mark.parametrize(
    ("given", "name"), [("A.example:80", "a.example"), ("[::1]:1", "::1"), ("localhost.", "localhost")]
)
def test_a_host_is_known_without_its_port(given, name):
    assert host_name(given) == name


def test_loopback_is_what_it_is():
    assert [is_loopback(host) for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost", "0.0.0.0", "::", "x.y")] == [
        True, True, True, True, False, False, False
    ]  # fmt: skip
