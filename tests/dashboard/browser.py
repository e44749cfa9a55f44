"""Headless Chromium for tests: where it is, and what it says when it is not there."""

from __future__ import annotations

import os
import shutil
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from playwright.sync_api import sync_playwright

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser

REQUIRED: Final = os.environ.get("CACTUS_REQUIRE_CHROMIUM") == "1"
AXE: Final = Path(__file__).parent / "axe"
NAMES: Final = ("chromium", "chromium-browser", "google-chrome")
FLAGS: Final = ("--disable-gpu", "--disable-dev-shm-usage", "--font-render-hinting=none")


def chromium() -> str | None:
    """As the system has it; nothing is downloaded."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


@contextmanager
def open_chromium(path: str) -> Iterator[Browser]:
    as_root = hasattr(os, "geteuid") and os.geteuid() == 0
    flags = [*FLAGS, "--no-sandbox"] if as_root else list(FLAGS)  # root has no sandbox
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=flags)
        try:
            yield browser
        finally:
            browser.close()


def chromium_or_skip() -> str:
    """Skips loudly without Chromium; with CACTUS_REQUIRE_CHROMIUM=1 that is a failure."""
    found = chromium()
    if found is None:
        reason = "THE DASHBOARD WAS NOT TESTED IN A BROWSER: chromium is not installed (Debian: apt install chromium)"
        if REQUIRED:
            pytest.fail(f"{reason} (CACTUS_REQUIRE_CHROMIUM=1)", pytrace=False)
        print(f"\n{reason}", file=sys.__stderr__)
        pytest.skip(reason)
    return found
