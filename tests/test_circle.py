"""The whole circle: sample -> v1 -> serve -> feedback -> v2 -> pull -> roll-out -> serve."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from threading import Event, Thread
from typing import Any

import httpx2
import pytest
import yaml

from mondrian.critique.schema import Critique
from mondrian.sample.scene import draw_scene, render
from mondrian.sample.writing_style import write_critique
from tests.cloned import Clone, cloned
from tests.service_process import Running, running

pytestmark = [pytest.mark.long, pytest.mark.timeout(1500)]
REVIEWED = 12  # photographs that a person judges between v1 and v2


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A photographer's project: one advisor, an application of its own beside the sample's."""
    made = cloned(tmp_path_factory.mktemp("circle"))
    made.run("dvc", "repro", "data/sample/dvc.yaml")
    (made.folder / "data/sample/mondrian").rename(made.folder.parent / "application")
    params = made.folder / "params.yaml"
    text = params.read_text().replace(
        "data/sample/mondrian", str(made.folder.parent / "application")
    )
    text = text.replace("overhead: 0.3 ", "overhead: 99 ")  # others may be at work here
    params.write_text(re.sub(r"advisors: \[.*\]", "advisors: [ansel]", text))
    made.run("dvc", "remote", "add", "-q", "--default", "store", str(made.folder.parent / "store"))
    made.run("git", "init", "-q", "--bare", "../origin")
    made.run("git", "remote", "add", "origin", "../origin")
    return made


def released(home: Clone, version: str) -> None:
    """`make`, a commit, and a release that is pushed."""
    home.run("dvc", "repro", "evaluate@ansel")
    home.commit(f"what {version} is made of")
    home.run(sys.executable, "-m", "mondrian", "release", "ansel", "--version", version)
    home.run("dvc", "push", "-q", "train@ansel")
    home.run("git", "push", "-q", "origin", "HEAD", "--tags")


def mondrian(mac: Clone, *words: object) -> str:
    return mac.run(sys.executable, "-m", "mondrian", *map(str, words))


def scene(i: int) -> bytes:
    """A photograph that nobody trained on."""
    content = BytesIO()
    render(draw_scene(4711, i), 640, 512).save(content, "JPEG", quality=92)
    return content.getvalue()


def ask(client: httpx2.Client, photo: bytes, who: str, mode: str = "lora") -> dict[str, Any]:
    told = client.post(
        "/analyze",
        files={"image": ("lake.jpg", photo)},
        data={"advisor": "ansel", "mode": mode},
        headers={"x-client-id": who},
    )
    assert told.status_code == 200, told.text
    return dict(told.json())


def corrected(wanted: Critique) -> dict[str, Any]:
    """What the advisor would have said, as a person types it."""
    return {"verdict": "corrected", "thumbs": -1, "critique": wanted.model_dump(mode="json")}


def judge(client: httpx2.Client, job: str, wanted: Critique, i: int) -> None:
    """Accept a third, correct a third, and say nothing of the rest."""
    said = ({"verdict": "accepted", "thumbs": 1}, corrected(wanted), {})[i % 3]
    if said:
        told = client.post(f"/jobs/{job}/feedback", json=said)
        assert told.status_code == 200, told.text


@contextmanager
def load(service: Running) -> Iterator[list[int]]:
    """Two clients that ask all the time; the status of every answer."""
    told: list[int] = []
    done = Event()

    def client(number: int) -> None:
        photo = scene(100 + number)
        with service.client() as one:
            while not done.is_set():
                answer = one.post(
                    "/analyze", files={"image": ("lake.jpg", photo)}, data={"advisor": "ansel"}
                )
                told.append(answer.status_code)

    threads = [Thread(target=client, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield told
    finally:
        done.set()
        for thread in threads:
            thread.join(120)


def test_the_whole_circle(home: Clone, tmp_path: Path) -> None:
    released(home, "v1")
    linked = home.metrics("ansel", "link")["linked"]
    application = home.folder.parent / "application"

    mac = Clone(tmp_path)
    subprocess.run(
        ["git", "clone", "-q", str(home.folder.parent / "origin"), str(mac.folder)],
        check=True,
        timeout=60,
    )
    origin = home.folder.parent / "origin"
    assert "ansel@v1.0.0 serves" in mondrian(mac, "pull", "ansel", "--rev", "v1", "--from", origin)
    steps = [
        {"share": share, "hours": 0, "jobs": 5, "requires": "guardrails"} for share in (0.5, 1.0)
    ]
    rollout = yaml.safe_load((mac.folder / "rollout.yaml").read_text())
    (mac.folder / "rollout.yaml").write_text(
        yaml.safe_dump(rollout | {"steps": steps, "check_interval_seconds": 0.5})
    )
    flags = (
        "--lora_path",
        mac.folder / "models/serving",
        "--model_mode",
        "ab_test",
        "--rollout",
        mac.folder / "rollout.yaml",
        "--db",
        application / "mondrian.db",
        "--data",
        application / "source",
    )
    with running(tmp_path, *flags) as service, service.client() as client:
        for i in range(REVIEWED):
            job = ask(client, scene(i), f"client-{i}")["job_id"]
            judge(client, job, write_critique("ansel", draw_scene(4711, i)), i)
        for i in range(30):
            ask(client, scene(i % 3), f"visitor-{i}", mode="baseline")
        state = json.loads(
            mondrian(
                mac,
                "ab",
                "report",
                "--db",
                application / "mondrian.db",
                "--advisor",
                "ansel",
                "--json",
            )
        )
        assert "ansel@v1.0.0" in json.dumps(state)

    released(home, "v2")
    again = home.metrics("ansel", "link")
    assert again["linked"] == linked + 2 * REVIEWED // 3
    assert again["rejected"]["unreviewed"] >= REVIEWED // 3
    mondrian(home, "promote", "ansel", "--version", "v2", "--stage", "prod")
    home.run("git", "push", "-q", "origin", "--tags")

    with running(tmp_path, *flags) as service, service.client() as client:
        first = ask(client, scene(0), "somebody")["adapter_version"]
        with load(service) as told:
            started = time.monotonic()
            assert "ansel@v2.0.0 serves" in mondrian(
                mac, "pull", "ansel", "--stage", "prod", "--from", origin
            )
            pulled = time.monotonic() - started
            while (now := ask(client, scene(0), "somebody")["adapter_version"]) == first:
                assert time.monotonic() - started < 60
            took = time.monotonic() - started
        assert len(told) > 1
        assert set(told) == {200}
        record = mac.folder / "models/serving/ansel/current/release.json"
        assert json.loads(record.read_text())["adapter_version"] == now
        sys.stderr.write(f"\npull {pulled:.1f} s, first answer of v2 after {took:.1f} s\n")
        listed = mondrian(mac, "rollout", "ansel", "--db", application / "mondrian.db")
        assert "ansel@v2.0.0" in listed
        assert "ansel@v2.0.0 serves" not in mondrian(mac, "rollback", "ansel")
        deadline = time.monotonic() + 20
        while ask(client, scene(0), "somebody")["adapter_version"] != first:
            assert time.monotonic() < deadline
