"""A browser, and a service with both adapters in an A/B test, for the tests of the pages."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests import browsing
from tests.service_process import ServiceProcess, run_service


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsing.browser() as started:
        yield started


@pytest.fixture(scope="session")
def ab_service(
    adapters: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServiceProcess]:
    browsing.find_chromium()
    folder = tmp_path_factory.mktemp("pages")
    with run_service(folder, "--lora_path", adapters, "--model_mode", "ab_test") as started:
        yield started
