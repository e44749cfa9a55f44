"""One seed is one party everywhere, and its file is kept as a secret is kept."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest
from aptos_sdk.account import Account
from aptos_sdk.ed25519 import PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.peer.id import ID
from nacl.signing import SigningKey, VerifyKey

from cactus_mesh.errors import (
    KeyFileExists,
    KeyFileExposed,
    KeyFileMalformed,
    KeyFileMissing,
    KeyFileUnwritable,
)
from cactus_mesh.identity import Identity, create_key_file, load_key_file, peer_id, public_key_of, verify
from tests.samples import CLIENT, ROUTER

seeds = st.binary(min_size=32, max_size=32)
on_posix = pytest.mark.skipif(os.name != "posix", reason="file modes are a POSIX matter")


@settings(max_examples=30, deadline=None)
@given(seeds)
def test_one_seed_is_one_party_to_every_library(seed):
    me = Identity.from_seed(seed)
    private_key = PrivateKey(SigningKey(seed))
    assert me.public_key == bytes(SigningKey(seed).verify_key)
    assert me.peer_id == str(ID.from_pubkey(create_new_key_pair(seed).public_key))
    assert me.address == str(Account.load_key(private_key.aip80()).address())
    assert public_key_of(me.peer_id) == me.public_key


@settings(max_examples=30, deadline=None)
@given(seeds, st.binary(max_size=200))
def test_a_signature_is_everybodys_ed25519(seed, data):
    me = Identity.from_seed(seed)
    assert me.sign(data) == SigningKey(seed).sign(data).signature
    assert create_new_key_pair(seed).public_key.verify(data, me.sign(data))
    assert verify(me.public_key, data, me.sign(data))


@given(seeds, st.binary(max_size=50), st.integers(0, 63), st.integers(1, 255))
def test_a_changed_signature_or_text_or_key_does_not_verify(seed, data, place, change):
    me = Identity.from_seed(seed)
    good = me.sign(data)
    bad = good[:place] + bytes([good[place] ^ change]) + good[place + 1 :]
    assert not verify(me.public_key, data, bad)
    assert not verify(me.public_key, data + b"x", good)
    assert not verify(Identity.from_seed(bytes([seed[0] ^ 1]) + seed[1:]).public_key, data, good)


@pytest.mark.parametrize(
    ("key", "signature"),
    [(b"", bytes(64)), (bytes(31), bytes(64)), (bytes(32), bytes(64)), (b"\xff" * 32, bytes(64)), (bytes(32), b"")],
)
def test_malformed_keys_and_signatures_are_simply_false(key, signature):
    assert not verify(key, b"data", signature)


def test_a_small_order_key_signs_nothing():
    """With such a key, some signatures hold for every text under a lax library."""
    identity_point = b"\x01" + bytes(31)
    assert not verify(identity_point, b"any text", identity_point + bytes(32))


def test_a_signature_with_a_second_spelling_is_refused():
    order = 2**252 + 27742317777372353535851937790883648493
    good = CLIENT.sign(b"data")
    scalar = int.from_bytes(good[32:], "little") + order
    assert not verify(CLIENT.public_key, b"data", good[:32] + scalar.to_bytes(32, "little"))
    assert VerifyKey(CLIENT.public_key).verify(b"data", good) == b"data"


def test_the_seed_shows_nowhere():
    shown = repr(CLIENT) + str(CLIENT) + repr([CLIENT]) + f"{CLIENT!r}"
    assert CLIENT.seed.hex() not in shown
    assert repr(CLIENT.seed) not in shown


def test_two_identities_are_the_same_party_when_their_public_keys_are():
    assert Identity.from_seed(CLIENT.seed) == CLIENT != ROUTER
    assert len({CLIENT, Identity.from_seed(CLIENT.seed), ROUTER}) == 2


@pytest.mark.parametrize("seed", [b"", bytes(31), bytes(33), bytes(64)])
def test_a_seed_has_32_bytes(seed):
    with pytest.raises(KeyFileMalformed, match="a seed has 32 bytes"):
        Identity.from_seed(seed)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not a peer id",
        "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N",
        CLIENT.peer_id[:-1],
        CLIENT.peer_id + "1",
        "1" + CLIENT.peer_id,
        CLIENT.peer_id + "\n",
        CLIENT.peer_id.lower(),
        "🌵" * 10,
        "1" * 100_000,
    ],
)
def test_what_is_not_an_ed25519_peer_id_is_refused(text):
    with pytest.raises(ValueError, match="peer id"):
        public_key_of(text)


@given(st.text(max_size=60))
def test_no_text_crashes_the_peer_id_reader(text):
    try:
        key = public_key_of(text)
    except ValueError:
        return
    assert peer_id(key) == text


# --- the key file --------------------------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path):
    return tmp_path / "home" / "key"


def files(path):
    return sorted(each.name for each in path.parent.iterdir())


def test_what_is_written_is_read_again(path):
    create_key_file(path, CLIENT)
    assert load_key_file(path).seed == CLIENT.seed
    assert files(path) == ["key"]
    assert PrivateKey.from_str(path.read_text().strip(), strict=True).key.encode() == CLIENT.seed


@on_posix
def test_a_key_file_is_for_its_owner_alone(path):
    before = os.umask(0)
    try:
        create_key_file(path, CLIENT)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


@on_posix
@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o610])
def test_a_key_that_others_can_read_is_refused_with_the_fix(path, mode):
    create_key_file(path, CLIENT)
    path.chmod(mode)
    with pytest.raises(KeyFileExposed, match=f"mode {mode:04o}.*chmod 600 {path}"):
        load_key_file(path)
    path.chmod(0o400)
    assert load_key_file(path) == CLIENT


def test_a_key_is_never_overwritten(path):
    create_key_file(path, CLIENT)
    with pytest.raises(KeyFileExists, match="never overwritten"):
        create_key_file(path, ROUTER)
    assert load_key_file(path) == CLIENT
    assert files(path) == ["key"]


@pytest.mark.parametrize("step", ["fsync", "link"])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_a_crash_between_writing_and_publishing_leaves_nothing(path, monkeypatch, step, error):
    def crash(*_):
        raise error

    monkeypatch.setattr(os, "link", crash)
    monkeypatch.setattr(Path, "replace", crash)
    monkeypatch.setattr(os, step, crash)
    with pytest.raises(KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else KeyFileUnwritable):
        create_key_file(path, CLIENT)
    assert files(path) == []


def test_a_file_system_without_hard_links_will_do(path, monkeypatch):
    def no_links(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    create_key_file(path, CLIENT)
    with pytest.raises(KeyFileExists):
        create_key_file(path, ROUTER)
    assert load_key_file(path) == CLIENT
    assert files(path) == ["key"]


def test_a_folder_that_takes_no_key_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(KeyFileUnwritable, match="--home"):
        create_key_file(tmp_path / "file" / "key", CLIENT)
    with pytest.raises(KeyFileUnwritable, match="--home"):
        create_key_file(tmp_path / "file" / "deeper" / "key", CLIENT)


def test_a_missing_key_says_how_to_make_one(path):
    with pytest.raises(KeyFileMissing, match="cactus-mesh keygen"):
        load_key_file(path)


GOOD = f"ed25519-priv-0x{CLIENT.seed.hex()}"


@pytest.mark.parametrize("text", [GOOD, GOOD + "\n", f" {GOOD} \r\n", CLIENT.seed.hex(), GOOD.replace("fe", "FE")])
def test_a_key_as_wallets_export_it_is_read(path, text):
    create_key_file(path, ROUTER)
    path.write_text(text)
    assert load_key_file(path) == CLIENT


@pytest.mark.parametrize(
    "data",
    [b"", b"\n", GOOD[:-1].encode(), GOOD.encode() + b"0", GOOD.encode() * 2, b"secp256k1-priv-0x" + b"0" * 64,
     b"0x" + b"0" * 62, b"g" * 64, b"0 " * 32, b"\xff\xfe\x00", b"\x00" * 32],
)  # fmt: skip
def test_a_malformed_key_file_is_refused_without_telling_its_content(path, data):
    create_key_file(path, ROUTER)
    path.write_bytes(data)
    with pytest.raises(KeyFileMalformed) as caught:
        load_key_file(path)
    assert str(path) in caught.value.message
    assert CLIENT.seed.hex()[:16] not in caught.value.message


def test_a_folder_in_place_of_a_key_is_refused(tmp_path):
    with pytest.raises(KeyFileMalformed, match="cannot read the key"):
        load_key_file(tmp_path)
