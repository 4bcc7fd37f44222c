"""A real browser for the pages, which notes what should not be: faults and far requests."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
PATIENCE = 60_000  # ms for what a machine with nothing else to do does at once
_NAMES = ("chromium", "chromium-browser", "google-chrome")

# What stands in the page's growing text, each time that it changes, in the order that it did.
GROWTH = """
addEventListener("DOMContentLoaded", () => {
  for (const block of document.querySelectorAll("[data-text]")) {
    new MutationObserver(() => {
      const seen = JSON.parse(sessionStorage.getItem("grown") || "[]");
      sessionStorage.setItem("grown", JSON.stringify([...seen, block.textContent]));
    }).observe(block, {childList: true, subtree: true});
  }
});
"""

# The line around what has the focus, or around the card that it is in.
OUTLINE = """() => {
  const focused = document.activeElement;
  return getComputedStyle(focused.closest("label") || focused).outlineStyle;
}"""

# How many things to fill in, press or watch have no name.
NAMELESS = """() => [...document.querySelectorAll("input, textarea, button, progress")].filter(
  (one) => !one.labels?.length && !one.ariaLabel && !one.textContent.trim()
).length"""

# Texts with less contrast to what is behind them than WCAG 2.2 AA wants: 4.5, or 3 for large ones.
FAINT = """() => {
  const paint = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const rgba = (color) => {
    paint.clearRect(0, 0, 1, 1);
    paint.fillStyle = color;
    paint.fillRect(0, 0, 1, 1);
    return [...paint.getImageData(0, 0, 1, 1).data];
  };
  const light = (color) => {
    const linear = (v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    const [r, g, b] = color.map((v) => linear(v / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (node) => {
    for (; node; node = node.parentElement) {
      const color = rgba(getComputedStyle(node).backgroundColor);
      if (color[3] === 255) return color;
    }
    return [255, 255, 255];
  };
  const faint = [];
  let seen = 0;
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let text = walk.nextNode(); text; text = walk.nextNode()) {
    const node = text.parentElement;
    const unseen = node.tagName === "NOSCRIPT" || !node.getClientRects().length;
    if (unseen || !text.data.trim()) continue;
    seen += 1;
    const style = getComputedStyle(node);
    const own = light(rgba(node instanceof SVGElement ? style.fill : style.color).slice(0, 3));
    const back = light(behind(node).slice(0, 3));
    const ratio = (Math.max(own, back) + 0.05) / (Math.min(own, back) + 0.05);
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    const told = `${text.data.trim().slice(0, 40)}: ${ratio.toFixed(2)}`;
    if (ratio < (large ? 3 : 4.5)) faint.push(told);
  }
  return {seen, faint};
}"""


@dataclass
class Noted:
    """What a browser did, and what went wrong in it."""

    requests: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def watch(self, page: Page) -> None:
        """Note all that happens in a page."""
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("console", self._heard)
        page.on("dialog", lambda dialog: self.faults.append(f"dialog: {dialog.message}"))

    def _heard(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):  # a violation of the CSP is one of them
            self.faults.append(message.text)

    def far(self) -> list[str]:
        """Requests that left this machine."""
        return [
            url
            for url in self.requests
            if urlsplit(url).scheme not in ("blob", "data")
            and urlsplit(url).hostname != "127.0.0.1"
        ]


def chromium() -> str:
    """The browser of this machine; skips where there is none."""
    found = [shutil.which(name) for name in ("/usr/bin/chromium", *_NAMES)]
    path = next(filter(None, found), None)
    if path is None:
        pytest.skip("no chromium on this machine")
    return path


@contextmanager
def browser() -> Iterator[Browser]:
    """Chromium without a window."""
    path = chromium()
    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=list(_FLAGS))
        yield started
        started.close()


@contextmanager
def opened(
    browser: Browser, url: str, width: int = 1280, faulty: bool = False, **options: Any
) -> Iterator[tuple[Page, Noted]]:
    """A page of a browser that knows nothing yet; at its end nothing may have gone wrong.

    url     paths are relative to it
    faulty  refused requests are part of the test, and Chromium tells its console of each
    """
    context = browser.new_context(base_url=url, viewport={"width": width, "height": 900}, **options)
    context.set_default_timeout(PATIENCE)
    noted = Noted()
    page = context.new_page()
    noted.watch(page)
    try:
        yield page, noted
        faults = [f for f in noted.faults if not (faulty and f.startswith("Failed to load"))]
        assert noted.requests
        assert not faults
        assert not noted.far()
    finally:
        context.close()


def too_wide(page: Page) -> int:
    """Pixels by which a page is wider than its window."""
    told = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    return int(page.evaluate(told))


def choose(page: Page, photo: Path, advisor: str = "ansel", mode: str = "base") -> None:
    """Fill in the form of the first page."""
    page.goto("/")
    page.set_input_files("#image", photo)
    page.check(f"input[name=advisor][value={advisor}]")
    page.check(f"input[name=mode][value={mode}]")


def critiqued(page: Page, photo: Path, advisor: str = "ansel", mode: str = "base") -> str:
    """Ask for a critique and wait until it is there; the path of its page."""
    choose(page, photo, advisor, mode)
    page.click("text=Critique it")
    page.wait_for_url("**/view/*")
    page.wait_for_selector("article")
    page.wait_for_function("() => !document.querySelector('[data-live]')")
    return urlsplit(page.url).path
