"""Make the images of the README: `make images`, after `make`; needs Chromium.

docs/images/report.png     top of metrics/<advisor>/report.html
docs/images/critique.png   a critique by the adapter, in the service's page
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from shutil import which

from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).parents[2]
ADVISOR = "ansel"
PORT = 5190
_FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]


def shoot_report(page: Page) -> None:
    page.goto((ROOT / "metrics" / ADVISOR / "report.html").as_uri())
    page.screenshot(path=ROOT / "docs/images/report.png")


def shoot_critique(page: Page) -> None:
    photo = sorted((ROOT / "data/sample/mondrian/source").glob("*.jpg"))[0]
    with tempfile.TemporaryDirectory() as data:
        command = [sys.executable, "-m", "mondrian", "serve", "--port", str(PORT)]
        command += ["--lora_path", "models", "--model_mode", "fine_tuned"]
        command += ["--data", data, "--db", f"{data}/mondrian.db"]
        service = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
        try:
            _wait_for(page)
            page.set_input_files("input[type=file]", photo)
            page.click("form.ask button.main")
            page.wait_for_selector("article .overall", timeout=60_000)
            page.screenshot(path=ROOT / "docs/images/critique.png")
        finally:
            service.terminate()
            service.wait(60)


def _wait_for(page: Page) -> None:
    for _ in range(120):
        try:
            page.goto(f"http://127.0.0.1:{PORT}/ready")
            if "true" in page.content() or "UP" in page.content():
                break
        except Exception:
            time.sleep(0.5)
    page.goto(f"http://127.0.0.1:{PORT}/")


def main() -> None:
    chromium = which("chromium") or which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=_FLAGS)
        page = browser.new_page(viewport={"width": 1000, "height": 900})
        shoot_report(page)
        shoot_critique(page)
        browser.close()


if __name__ == "__main__":
    main()
