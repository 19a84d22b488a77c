"""A headless Chromium for tests: the system's, with a profile of its own, and what the page said while it was open."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest
from playwright.sync_api import BrowserContext, Page, Request, sync_playwright

NAMES: Final = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS: Final = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
]
PATIENCE_MS: Final = 60_000


def chromium() -> str:
    """The browser's path. Without one the test is skipped, and fails where CI=true says that all must run."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is not None:
        return found
    if os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail("there is no Chromium, and CI runs every test: `make browser` installs it")
    pytest.skip("there is no Chromium: `make browser` installs it, or put one on the PATH")


@dataclass(eq=False)
class Seen:
    """What happened behind a page.

    Attributes:
        errors: that the console or a script has said.
        requests: the addresses that it asked.
    """

    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def watch(self, page: Page) -> None:
        """Listen to a page from now on."""
        page.on("console", lambda said: self.errors.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", self._asked)

    def _asked(self, request: Request) -> None:
        self.requests.append(request.url)


@contextmanager
def browser(profile: Path, *, width: int = 1280, height: int = 900, touch: bool = False) -> Iterator[BrowserContext]:
    """A browser with a new profile in a folder."""
    path = chromium()
    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            profile,
            executable_path=path,
            args=ARGUMENTS,
            viewport={"width": width, "height": height},
            has_touch=touch,
            accept_downloads=True,
        )
        context.set_default_timeout(PATIENCE_MS)
        try:
            yield context
        finally:
            context.close()
