"""What doctor thinks of a measurement: each verdict has its value in words, and whatever is not well has one advice."""

from __future__ import annotations

import pytest

from cactus_mesh.core.checkup import (
    ClockReading,
    Lookup,
    Torch,
    judge_clock,
    judge_disk,
    judge_dns,
    judge_key,
    judge_ledger,
    judge_port,
    judge_settings,
    judge_torch,
)
from cactus_mesh.core.checkup_network import (
    Attempt,
    StepView,
    View,
    judge_bootstrap,
    judge_mapping,
    judge_nat,
    judge_punch,
    judge_reachability,
    judge_relay,
)
from cactus_mesh.errors import ConfigMalformed, KeyFileExposed, LedgerDown, LedgerWrongChain, PeerListExpired
from cactus_mesh.messages import MAX_CLOCK_SKEW_MS

GB = 10**9
PEER = "/ip4/203.0.113.7/tcp/4101/p2p/12D3KooW"


def says(finding, verdict, *words):
    assert finding.verdict == verdict, finding
    assert bool(finding.advice) == (verdict != "pass"), finding
    for word in words:
        assert word in f"{finding.measured} → {finding.advice}", finding


# --- this machine ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ahead", "doubt", "verdict", "words"),
    [
        (0.2, 0.5, "pass", "as the ledger's, within 0.5 s"),
        (8.0, 0.5, "pass", "8.0 s ahead of the ledger"),
        (-15.0, 0.5, "warn", "15.0 s behind the ledger"),
        (31.0, 0.5, "fail", "31.0 s ahead of the ledger"),
        (31.0, 2.0, "warn", "31.0 s"),
        (-9_000.0, 0.5, "fail", "timedatectl"),
    ],
)
def test_a_clock_fails_when_peers_would_refuse_its_messages_for_certain(ahead, doubt, verdict, words):
    says(judge_clock([ClockReading("the ledger", ahead, doubt)], [], accepted=False), verdict, words)


def test_the_most_exact_reading_of_the_clock_counts():
    readings = [ClockReading("a", 100.0, 90.0), ClockReading("b", 0.0, 0.1)]
    says(judge_clock(readings, ["refused"], accepted=False), "pass", "as b's")


def test_without_a_reading_the_peers_word_counts_and_without_peers_nothing_is_known():
    says(judge_clock([], ["issued 150 s in the future"], accepted=False), "fail", "150 s")
    says(judge_clock([], [], accepted=True), "pass", f"within {MAX_CLOCK_SKEW_MS // 1_000} s")
    says(judge_clock([], [], accepted=False), "warn", "nobody to compare")


def test_a_key_is_there_or_will_be_made_or_must_be_mended():
    says(judge_key("/k", "12D3KooWme", None, mode=0o600), "pass", "12D3KooWme", "mode 0600")
    says(judge_key("/k", None, None, mode=None), "pass", "the first run makes one")
    exposed = KeyFileExposed("/k can be read by other users (mode 0644); fix it with: chmod 600 /k")
    says(judge_key("/k", None, exposed, mode=None), "fail", "(mode 0644)", "→ fix it with: chmod")


def test_settings_that_cannot_be_read_fail_with_the_reason():
    says(judge_settings(None, "no file"), "pass", "no file")
    says(judge_settings(ConfigMalformed("there is no setting 'x'"), ""), "fail", "there is no setting 'x'")


def test_a_port_that_somebody_has_is_only_a_failure_where_the_user_chose_it():
    taken = {"a": "port 4101 of 0.0.0.0 is in use by another program"}
    says(judge_port(["a"], held=[], refused={}, chosen=False), "pass", "can be had")
    says(judge_port([], held=["a"], refused={}, chosen=False), "pass", "held by the running node")
    says(judge_port(["a"], held=[], refused=taken, chosen=False), "warn", "takes any free port")
    says(judge_port(["a"], held=[], refused=taken, chosen=True), "fail", "in use", "--listen")


@pytest.mark.parametrize(
    ("free", "writable", "cache", "verdict", "words"),
    [
        (90 * GB, True, None, "pass", "90.0 GB free"),
        (GB // 4, True, None, "warn", "250 MB free"),
        (GB // 50, True, None, "fail", "make room"),
        (90 * GB, False, None, "fail", "cannot be written"),
        (90 * GB, True, GB, "warn", "HF_HOME"),
        (90 * GB, True, 20 * GB, "pass", "20.0 GB free for models"),
    ],
)
def test_room_for_what_is_kept_and_for_what_is_fetched(free, writable, cache, verdict, words):
    place = None if cache is None else "/cache"
    says(judge_disk("/home", free, writable=writable, cache=place, cache_free=cache or 0), verdict, words)


CPU = Torch("2.13.0", 2, {"cpu": "2 threads"})
GPU = Torch("2.13.0", 2, {"cpu": "2 threads", "cuda": "H200"})


@pytest.mark.parametrize(
    ("missing", "torch", "device", "needed", "verdict", "words"),
    [
        ((), CPU, "cpu", True, "pass", "cpu (2 threads)"),
        ((), GPU, "cuda:1", True, "pass", "H200"),
        ((), GPU, "cpu", True, "warn", "engine.device to cuda"),
        ((), CPU, "cuda", True, "fail", "one of: cpu"),
        ((), None, "cpu", True, "fail", "does not start"),
        ((), None, "cpu", False, "warn", "does not start"),
        (("torch",), None, "cpu", True, "warn", "pip install 'cactus-mesh[inference]'"),
        (("torch",), None, "cpu", False, "pass", "not needed in this role"),
    ],
)
def test_torch_and_its_device_matter_to_those_who_run_models(missing, torch, device, needed, verdict, words):
    says(judge_torch(missing, torch, "torch does not start: x", device=device, needed=needed), verdict, words)


def test_names_that_do_not_resolve_are_spelt_out():
    says(judge_dns([]), "pass", "not needed")
    says(judge_dns([Lookup("a.example", ("192.0.2.1",), 3.0)]), "pass", "192.0.2.1 (3 ms)")
    says(judge_dns([Lookup("a.example", (), 3.0, "not known")]), "fail", "a.example: not known", "spelling")


def test_a_ledger_that_is_down_or_another_one_has_its_own_advice():
    says(judge_ledger("http://x", 7, "0x" + "ab" * 32, None, 12.0), "pass", "chain 7", "0xabababab…abab", "12 ms")
    says(judge_ledger("http://x", 7, "", LedgerDown("nobody listens; check"), 0.0), "fail", "nobody listens", "devnet")
    says(judge_ledger("http://x", 7, "", LedgerWrongChain("is chain 1"), 0.0), "fail", "--network")


# --- the ways out ------------------------------------------------------------------------------------------------

GOOD = Attempt(PEER, 12.0, 30.0)
REFUSED = Attempt(PEER, None, None, "tcp: connection refused")


def bootstrap(attempts=(), problem=None, begins=False, remembered=0, connected=0):
    return judge_bootstrap(attempts, problem, begins=begins, remembered=remembered, connected=connected)


@pytest.mark.parametrize(
    ("attempt", "advice"),
    [
        (REFUSED, "check that it runs there"),
        (Attempt(PEER, None, None, "tcp: no answer within 5 s"), "firewalls"),
        (Attempt(PEER, 3.0, None, "it does not speak Noise"), "another service"),
        (Attempt(PEER, 3.0, None, "another peer answers there"), "get the address again"),
        (Attempt(PEER, 3.0, None, "different networks", "peer.wrong_network"), "--network"),
        (Attempt(PEER, 3.0, None, "issued 99 s in the future; check both clocks"), "set the clock"),
        (Attempt("x", None, None, "not an address", "address.malformed"), "write it like"),
    ],
)
def test_each_way_to_fail_at_a_bootstrap_address_has_its_own_advice(attempt, advice):
    says(bootstrap([attempt]), "fail", attempt.problem, advice)


def test_a_bootstrap_address_names_how_far_it_came():
    says(bootstrap([GOOD]), "pass", PEER, "tcp 12 ms, noise, hello, ping 30 ms")
    says(bootstrap([Attempt(PEER, 3.0, None, "no hello")]), "fail", "tcp 3 ms, then: no hello")


def test_one_way_in_is_enough_and_malformed_ones_are_not_forgiven():
    says(bootstrap([GOOD, REFUSED]), "warn", "one way in is enough")
    says(bootstrap([REFUSED], connected=3), "warn")
    says(bootstrap([GOOD, Attempt("x", None, None, "none", "address.malformed")]), "fail", "write it like")


def test_without_a_bootstrap_address_there_may_be_other_ways():
    says(bootstrap(), "fail", "--role bootstrap")
    says(bootstrap(begins=True), "pass", "this node is one")
    says(bootstrap(connected=2), "pass", "2 peers")
    says(bootstrap(remembered=5), "warn", "5 peers are remembered")
    says(bootstrap(problem=PeerListExpired("it expired; update")), "fail", "it expired", "update")


# --- the ways back -----------------------------------------------------------------------------------------------


def view(reach="unknown", nat="unknown", peers=3, preserving=None, relays=(), **steps):
    rungs = tuple(StepView(name, *words.split(": "), 1.5) for name, words in steps.items())
    return View(peers, reach, nat, preserving, ("/ip4/203.0.113.7/tcp/4101",), rungs, relays, {})


def test_whoever_is_reached_directly_needs_neither_mapping_nor_holes_nor_relays():
    for reach in ("public", "mapped"):
        found = view(reach, nat="none")
        says(judge_reachability(found), "pass", "directly", "203.0.113.7")
        says(judge_mapping(found), "pass", "not needed")
        says(judge_punch(found, "", succeeded=None), "pass", "not needed")
        says(judge_relay(found), "pass", "not needed")


def test_a_private_machine_lives_by_its_relays():
    says(judge_reachability(view("private", relays=("12D3KooWa", "12D3KooWb"))), "pass", "through 2 relays")
    says(judge_relay(view("private", relays=("12D3KooWabcdefgh",))), "pass", "…abcdefgh")
    says(judge_reachability(view("private")), "fail", "--role relay")
    says(judge_relay(view("private", relayed="failed: no relay is known")), "fail", "no relay is known")


def test_the_kind_of_nat_says_what_can_be_done():
    says(judge_nat(view(nat="none")), "pass")
    says(judge_nat(view(nat="endpoint-independent", preserving=True)), "pass", "keeps port numbers", "holes")
    says(judge_nat(view(nat="symmetric", preserving=False)), "warn", "changes port numbers", "UPnP")
    says(judge_nat(view()), "warn", "two peers elsewhere")


def test_a_network_of_one_lan_is_well_as_it_is():
    found = view(public="works: 2 of 2 peers asked reached it; nobody outside is connected")
    says(judge_reachability(found), "pass", "2 of 2 peers")
    says(judge_nat(found), "pass", "none on the way")
    says(judge_relay(found), "pass", "not needed")


def test_nothing_is_said_of_ways_back_while_nobody_is_connected():
    alone = view(peers=0)
    for finding in (
        judge_reachability(alone),
        judge_nat(alone),
        judge_mapping(alone),
        judge_punch(alone, "", succeeded=None),
        judge_relay(alone),
    ):
        says(finding, "warn", "no peer is connected", "correct what fails above")


def test_a_mapping_that_failed_names_the_router_and_one_that_works_its_address():
    says(
        judge_mapping(view("private", mapped="failed: no gateway answers")),
        "warn",
        "no gateway answers (1.5 s)",
        "UPnP",
    )
    says(judge_mapping(view("private", mapped="works: /ip4/1.2.3.4/tcp/1")), "pass", "1.2.3.4")
    says(judge_mapping(view("private", mapped="trying: asking")), "warn", "under way")


def test_a_hole_that_was_punched_in_the_test_counts_more_than_any_step():
    private = view("private", nat="endpoint-independent", punch="failed: no answer")
    says(judge_punch(private, "became direct in 1.2 s", succeeded=True), "pass", "1.2 s")
    says(judge_punch(private, "stayed relayed: no answer", succeeded=False), "warn", "stayed relayed")
    says(judge_punch(private, "nobody", succeeded=None), "warn", "no answer")
    says(judge_punch(view("private", nat="symmetric"), "nobody", succeeded=None), "warn", "symmetric")
