"""A short run of the fuzzer; the long one is ``make fuzz``."""

from __future__ import annotations

import random

from tests.fuzz_messages import fuzz


def test_five_thousand_hostile_inputs_are_each_refused_by_name():
    seed = random.SystemRandom().randrange(2**32)
    report = fuzz(5_000, seed)
    print(f"seed {seed}")
    assert sum(report["refused"].values()) + report["accepted"] == 5_000
    assert report["accepted"] < 1_000
