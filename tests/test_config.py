"""Where a setting comes from, and what is said when it is wrong."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cactus_mesh import config
from cactus_mesh.config import Config, find_home, load_config
from cactus_mesh.core.matching import Weights
from cactus_mesh.core.serving import ServingPolicy
from cactus_mesh.errors import ConfigMalformed, ConfigMissing

NETWORKS = Path(config.__file__).parents[1] / "bootstrap" / "networks"


@pytest.fixture
def home(tmp_path):
    return find_home(tmp_path, {})


def load(home, text="", flags=None, **environment):
    """*environment* without the prefix, in lower case."""
    if text:
        home.config_file.write_text(text, encoding="utf-8")
    return load_config(home, flags, {f"CACTUS_MESH_{name.upper()}": value for name, value in environment.items()})


def refusal(home, *arguments, **options):
    with pytest.raises(ConfigMalformed) as caught:
        load(home, *arguments, **options)
    return caught.value.message


# --- where a value comes from --------------------------------------------------------------------------------------


def test_without_any_source_there_are_the_defaults_and_the_network_of_this_machine(home):
    found = load(home)
    assert replace(found, ledger="", contract="", chain_id=0) == Config()
    assert (found.ledger, found.chain_id) == ("http://127.0.0.1:8790", 202)


def test_a_flag_goes_before_the_environment_that_before_the_file_that_before_the_network(home):
    ledgers = ["http://flag", "http://environment", "http://file"]
    file = f'ledger = "{ledgers[2]}"'
    assert load(home, file, {"ledger": ledgers[0]}, ledger=ledgers[1]).ledger == ledgers[0]
    assert load(home, file, {"ledger": None}, ledger=ledgers[1]).ledger == ledgers[1]
    assert load(home, file, {}).ledger == ledgers[2]
    home.config_file.unlink()
    assert load(home).ledger == "http://127.0.0.1:8790"


def test_sources_are_merged_setting_by_setting_and_not_section_by_section(home):
    found = load(home, "[price]\nbase = 1\ninput_per_1k = 2\n", price_base="3")
    assert (found.price.base, found.price.input_per_1k, found.price.output_per_1k) == (3, 2, 10_000)


def test_the_network_chosen_by_any_source_is_the_one_whose_file_is_read(home, monkeypatch, tmp_path):
    folder = tmp_path / "package"
    (folder / "networks").mkdir(parents=True)
    chain = 'contract = "0x' + "ab" * 32 + '"\nchain_id = 7\n'
    (folder / "networks" / "garden.toml").write_text(f'ledger = "https://garden"\n{chain}')
    monkeypatch.setattr(config, "__file__", str(folder / "config.py"))
    assert load(home, flags={"network": "garden"}).ledger == "https://garden"
    assert load(home, network="garden").chain_id == 7
    assert load(home, 'network = "garden"').ledger == "https://garden"


def test_every_setting_can_be_set_in_the_environment(home):
    found = load(
        home,
        roles="router, relay",
        bootstrap="/ip4/192.0.2.1/tcp/1,/ip4/192.0.2.2/tcp/1",
        mdns="false",
        matching_stake="0.5",
        serving_delegated_slots="2",
        router_settle_after_seconds="2.5",
        patience_stall_ms="1",
        client_max_price="7",
        models="",
    )
    assert found.roles == ("router", "relay")
    assert len(found.bootstrap) == 2
    assert found.mdns is False
    assert found.matching == Weights(stake=0.5)
    assert found.serving == ServingPolicy(delegated_slots=2)
    assert (found.router.settle_after_seconds, found.patience.stall_ms, found.client.max_price) == (2.5, 1, 7)
    assert found.models == ()


def test_each_variable_names_one_setting():
    names = ["_".join(path) for path, _ in config._leaves(Config)]
    assert len(set(names)) == len(names) > 30


def test_variables_of_others_are_left_alone(home):
    assert load_config(home, {}, {"PATH": "x", "CACTUS_MESH_HOME": "x", "CACTUS_MESH_LOG": "debug"}) == load(home)


def test_a_whole_number_will_do_for_a_fraction(home):
    assert load(home, "[client]\ndeadline_seconds = 5\n").client.deadline_seconds == 5.0


@pytest.mark.parametrize("path", sorted(NETWORKS.glob("*.toml")), ids=lambda path: path.stem)
def test_every_network_that_is_shipped_can_be_joined(home, path):
    assert load(home, flags={"network": path.stem}).network == path.stem


# --- what is wrong, and where --------------------------------------------------------------------------------------

WRONG_IN_A_FILE = {
    "chain_id = 'x'": "Expected `int`, got `str` - at `chain_id`",
    "chain_id = 256": "Expected `int` <= 255 - at `chain_id`",
    "chain_id = true": "Expected `int`, got `bool`",
    "contract = '0x1'": "at `contract`",
    "ledger = 'ftp://x'": "at `ledger`",
    "roles = ['client']": "unknown value 'client' - at `roles[0]`",
    "roles = []": "length >= 1 - at `roles`",
    "roles = 'router'": "Expected `array`, got `str` - at `roles`",
    "network = 5": "Expected `str`, got `int` - at `network`",
    "bootstap = []": "there is no setting 'bootstap'; did you mean bootstrap?",
    "[price]\nbas = 1": "there is no setting 'price.bas'; did you mean base?",
    "[price]\nbase = -1": "Expected `int` >= 0 - at `price.base`",
    "[price]\nbase = 9223372036854775808": "at `price.base`",
    "[price]\nbase = 1.5": "Expected `int`, got `float` - at `price.base`",
    "price = 3": "Expected `object`, got `int` - at `price`",
    "[engine]\nslots = 0": "Expected `int` >= 1 - at `engine.slots`",
    "[router]\nsettle_batch = 51": "Expected `int` <= 50 - at `router.settle_batch`",
    "[router]\nsettle_after_seconds = nan": "at `router.settle_after_seconds`",
    "[client]\nmax_tokens = 0": "at `client.max_tokens`",
    "[client]\ndeadline_seconds = 0.0": "at `client.deadline_seconds`",
    "[client]\ndeadline_seconds = inf": "at `client.deadline_seconds`",
    "[matching]\nstake = -1": "matching weights must be finite",
    "[matching]\nstake = inf": "matching weights must be finite",
    "[serving]\nleast_share_bps = 10001": "shares must be 0 to 10000",
    "[patience]\nstall_ms = 0": "patience must be at least 1 ms",
    "x = ": "Invalid value",
    "[a]\n[a]": "Cannot declare",
}


@pytest.mark.parametrize(("text", "said"), WRONG_IN_A_FILE.items())
def test_what_is_wrong_in_the_file_is_told_with_its_path_and_place(home, text, said):
    message = refusal(home, text)
    assert str(home.config_file) in message
    assert said in message


def test_a_file_that_cannot_be_read_is_named(home):
    home.config_file.write_bytes(b"\xff")
    assert str(home.config_file) in refusal(home)
    home.config_file.unlink()
    home.config_file.mkdir()
    assert str(home.config_file) in refusal(home)


WRONG_IN_THE_ENVIRONMENT = {
    ("chain_id", "x"): "CACTUS_MESH_CHAIN_ID: ",
    ("price_base", "-1"): "CACTUS_MESH_PRICE_BASE: Expected `int` >= 0",
    ("roles", "router,king"): "CACTUS_MESH_ROLES: unknown value 'king' - at `[1]`",
    ("roles", ""): "CACTUS_MESH_ROLES: ",
    ("mdns", "perhaps"): "CACTUS_MESH_MDNS: ",
    ("client_deadline_seconds", "nan"): "CACTUS_MESH_CLIENT_DEADLINE_SECONDS: ",
    ("matching_load", "inf"): "the environment: matching weights",
    ("serving_deepest_chain", "9"): "the environment: delegated_slots",
    ("bootstap", "x"): "no setting for the variable CACTUS_MESH_BOOTSTAP; did you mean CACTUS_MESH_BOOTSTRAP?",
    ("price", "x"): "no setting for the variable CACTUS_MESH_PRICE",
}


@pytest.mark.parametrize(("variable", "said"), WRONG_IN_THE_ENVIRONMENT.items(), ids=str)
def test_what_is_wrong_in_the_environment_is_told_with_its_variable(home, variable, said):
    name, value = variable
    assert said in refusal(home, **{name: value})


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"ledger": 5}, "the command line: Expected `str`, got `int` - at `ledger`"),
        ({"network": ["x"]}, "the command line: "),
        ({"roles": ("king",)}, "the command line: unknown value 'king'"),
        ({"colour": "green"}, "the command line: there is no setting 'colour'"),
    ],
)
def test_what_is_wrong_on_the_command_line_is_told_as_such(home, flags, said):
    assert said in refusal(home, flags=flags)


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "a/b", "a\\b", "x" * 65, "a b", "a\0b"])
def test_a_network_name_is_no_path(home, name):
    assert "is not a network name" in refusal(home, flags={"network": name})


def test_a_role_is_named_once(home):
    assert "named twice in router, router" in refusal(home, flags={"roles": ["router", "router"]})


def test_a_network_of_ones_own_must_be_described_in_full(home):
    with pytest.raises(ConfigMissing, match="network 'mine' needs a ledger URL, a contract address and a chain id"):
        load(home, flags={"network": "mine"})
    contract = "0x" + "ab" * 32
    assert load(home, network="mine", ledger="https://x", contract=contract, chain_id="4").chain_id == 4


def test_sections_that_only_together_make_no_sense_are_refused(home):
    file = "[matching]\nstake = 0\nsuccess = 0\ncompute = 0\nlatency = 0\nload = 0\n"
    assert "the configuration: matching weights" in refusal(home, file, matching_price="0")


@given(
    st.dictionaries(
        st.sampled_from([field.name for field in fields(Config)] + ["x"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
            max_leaves=4,
        ),
        max_size=4,
    )
)
def test_no_flags_whatever_end_in_anything_but_a_configuration_or_its_error(flags):
    with suppress(ConfigMalformed, ConfigMissing):
        load_config(find_home(Path("nowhere"), {}), flags, {})


# --- the home ------------------------------------------------------------------------------------------------------


def test_home_moves_everything(tmp_path):
    moved = find_home(tmp_path, {"CACTUS_MESH_HOME": "/elsewhere"})
    paths = (moved.config_file, moved.key_file, moved.peers_file, moved.control_file, moved.devnet)
    assert {path.parent for path in paths} == {tmp_path}
    assert len(set(paths)) == len(paths)


def test_the_environment_moves_everything_too(tmp_path):
    assert find_home(None, {"CACTUS_MESH_HOME": str(tmp_path)}) == find_home(tmp_path, {})


def test_a_home_may_be_named_by_a_string():
    assert find_home("mesh", {}) == find_home(Path("mesh"), {})


def test_a_tilde_is_the_users_own_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert find_home(None, {"CACTUS_MESH_HOME": "~/mesh"}).state == tmp_path / "mesh"


def test_without_a_home_the_systems_folders_are_used(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    usual = find_home(None, {})
    assert usual.config_file.name == "config.toml"
    assert "cactus-mesh" in str(usual.config)
    assert "cactus-mesh" in str(usual.state)
    assert find_home(None, {"CACTUS_MESH_HOME": ""}) == usual


# --- audits -------------------------------------------------------------------------------------------------------


def test_a_router_with_which_cheating_would_pay_is_refused_with_the_figures(home):
    text = 'roles = ["router"]\n[audit]\nfloor = 0.01\n'
    message = refusal(home, text, ledger="http://here", contract="0x" + "0" * 64, chain_id="4")
    assert "cheating pays" in message
    assert "raise audit.floor to 0.04516, or matching.stake_cover to 93.84" in message


def test_only_who_audits_needs_settings_that_deter(home):
    text = 'roles = ["orchestrator"]\n[audit]\nfloor = 0.01\n'
    assert load(home, text, ledger="http://here", contract="0x" + "0" * 64, chain_id="4").audit.floor == 0.01


@pytest.mark.parametrize(("key", "value"), [("floor", 0), ("floor", 2), ("newcomer_audits", 0), ("at_once", 0)])
def test_an_audit_setting_out_of_its_bounds_is_refused_by_name(home, key, value):
    assert "audit" in refusal(home, f"[audit]\n{key} = {value}\n")
