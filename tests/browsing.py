"""A real browser for the pages. It reports script errors and requests to other machines."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from filelock import FileLock
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
PATIENCE = 300_000  # ms; an idle machine needs a fraction of it
_AXE_VERSION = "4.11.0"  # of the npm package axe-core, the accessibility checker
_AXE_FOLDER = Path(__file__).parent.parent / ".cache" / f"axe-core-{_AXE_VERSION}"
_NPM_SECONDS = 120
_NAMES = ("chromium", "chromium-browser", "google-chrome")

# Record every state of the critique's text while it is generated.
RECORD_TEXTS_SCRIPT = """
addEventListener("DOMContentLoaded", () => {
  for (const block of document.querySelectorAll("[data-text]")) {
    new MutationObserver(() => {
      const texts = JSON.parse(sessionStorage.getItem("texts") || "[]");
      sessionStorage.setItem("texts", JSON.stringify([...texts, block.textContent]));
    }).observe(block, {childList: true, subtree: true});
  }
});
"""

# Each page opens its own event stream, which a test can then answer in the service's place.
NO_SHARED_WORKER_SCRIPT = "delete window.SharedWorker"

# The outline style of the focused element, or of the card around it.
OUTLINE_SCRIPT = """() => {
  const focused = document.activeElement;
  return getComputedStyle(focused.closest(".choice") || focused).outlineStyle;
}"""

# The number of fields, buttons and progress bars without a label.
UNLABELED_SCRIPT = """() => [
  ...document.querySelectorAll("input:not([type=hidden]), select, textarea, button, progress")
].filter(
  (node) => !node.labels?.length && !node.ariaLabel && !node.textContent.trim()
    && !node.querySelector("img")?.alt
).length"""

# Texts with less contrast than WCAG 2.2 AA requires: 4.5, or 3 for large text.
CONTRAST_SCRIPT = """() => {
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
    const isHidden = node.tagName === "NOSCRIPT" || !node.getClientRects().length;
    if (isHidden || !text.data.trim()) continue;
    seen += 1;
    const style = getComputedStyle(node);
    const own = light(rgba(node instanceof SVGElement ? style.fill : style.color).slice(0, 3));
    const back = light(behind(node).slice(0, 3));
    const ratio = (Math.max(own, back) + 0.05) / (Math.min(own, back) + 0.05);
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    const message = `${text.data.trim().slice(0, 40)}: ${ratio.toFixed(2)}`;
    if (ratio < (large ? 3 : 4.5)) faint.push(message);
  }
  return {seen, faint};
}"""


# Violations of axe's rules, with the elements that they are about.
AXE_SCRIPT = """async () => {
  const {violations} = await axe.run();
  return violations.flatMap(
    ({id, help, nodes}) => nodes.map(({html}) => `${id}: ${help}: ${html.slice(0, 120)}`)
  );
}"""


@dataclass
class PageLog:
    """The requests and errors of a page."""

    requests: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def watch(self, page: Page) -> None:
        """Record the requests and errors of a page."""
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", self._log_console)
        page.on("dialog", lambda dialog: self.errors.append(f"dialog: {dialog.message}"))

    def _log_console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):  # a violation of the CSP is one of them
            self.errors.append(message.text)

    def external_requests(self) -> list[str]:
        """Return requests to other machines."""
        return [
            url
            for url in self.requests
            if urlsplit(url).scheme not in ("blob", "data", "file")
            and urlsplit(url).hostname != "127.0.0.1"
        ]


def find_chromium() -> str:
    """Return the path of Chromium; skip the test if it is not installed."""
    paths = [shutil.which(name) for name in ("/usr/bin/chromium", *_NAMES)]
    path = next(filter(None, paths), None)
    if path is None:
        pytest.skip("no chromium on this machine")
    return path


@contextmanager
def browser() -> Iterator[Browser]:
    """Start headless Chromium."""
    path = find_chromium()
    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=list(_FLAGS))
        yield chromium
        chromium.close()


@contextmanager
def open_page(
    browser: Browser, url: str, width: int = 1280, faulty: bool = False, **options: Any
) -> Iterator[tuple[Page, PageLog]]:
    """Open a page in a new browser context; at the end, fail on errors and external requests.

    url     paths are relative to it
    faulty  the test causes rejected requests, each of which Chromium logs as an error
    """
    context = browser.new_context(base_url=url, viewport={"width": width, "height": 900}, **options)
    context.set_default_timeout(PATIENCE)
    log = PageLog()
    page = context.new_page()
    log.watch(page)
    try:
        yield page, log
        errors = [f for f in log.errors if not (faulty and f.startswith("Failed to load"))]
        assert log.requests
        assert not errors
        assert not log.external_requests()
    finally:
        context.close()


def overflow_width(page: Page) -> int:
    """Return the pixels by which a page is wider than its window."""
    script = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    return int(page.evaluate(script))


def find_axe_violations(page: Page) -> list[str]:
    """Return what axe-core finds on a page; skip the test if npm cannot install it."""
    page.evaluate(_load_axe())  # not a script tag, which the page's CSP would block
    violations: list[str] = page.evaluate(AXE_SCRIPT)
    return violations


@cache
def _load_axe() -> str:
    """Return axe-core's script, which npm installs into .cache the first time."""
    script = _AXE_FOLDER / "node_modules" / "axe-core" / "axe.min.js"
    _AXE_FOLDER.mkdir(parents=True, exist_ok=True)
    with FileLock(_AXE_FOLDER / "lock"):
        if not script.exists():
            _install_axe()
    return script.read_text(encoding="utf-8")


def _install_axe() -> None:
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("no npm on this machine, which installs axe-core")
    options = ("--no-save", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix")
    command = [npm, "install", *options, str(_AXE_FOLDER), f"axe-core@{_AXE_VERSION}"]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=_NPM_SECONDS)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"npm could not install axe-core: {error.stderr[-300:]}")
    except subprocess.TimeoutExpired:
        pytest.skip(f"npm could not install axe-core in {_NPM_SECONDS} s")


def fill_in_form(page: Page, photo: Path, advisor: str = "ansel", mode: str = "base") -> None:
    """Fill in the form of the start page."""
    page.goto("/")
    page.set_input_files("#image", photo)
    page.check(f"input[name=advisor][value={advisor}]")
    page.check(f"input[name=mode][value={mode}]")


def request_critique(page: Page, photo: Path, advisor: str = "ansel", mode: str = "base") -> str:
    """Request a critique, wait until it is complete, and return the path of its page."""
    fill_in_form(page, photo, advisor, mode)
    page.click("text=Get critique")
    page.wait_for_url("**/view/*")
    page.wait_for_selector("article")
    page.wait_for_function("() => !document.querySelector('[data-live]')")
    return urlsplit(page.url).path


def bounding_box(page: Page, selector: str, index: int) -> Any:
    box = page.locator(selector).nth(index).bounding_box()
    assert box
    return box
