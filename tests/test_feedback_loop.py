"""The feedback loop: sample -> v1 -> serve -> feedback -> v2 -> pull -> rollout -> serve."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from threading import Event, Thread

import httpx2
import pytest
import yaml

from mondrian.critique.schema import Critique
from mondrian.sample.scene import draw_scene, render
from mondrian.sample.writing_style import write_critique
from tests.clone import Clone, copy_clone
from tests.service_process import ServiceProcess, analyze_as, run_service
from tests.waiting import PATIENCE, wait_for

pytestmark = pytest.mark.slow
NUM_REVIEWED = 12  # photos that a person reviews between v1 and v2
SEED = 4711  # of scenes that no sample has


@pytest.fixture
def project(built_clone: Clone, tmp_path: Path) -> Clone:
    """A photographer's project with one advisor, an application, an origin and a DVC remote."""
    home = tmp_path / "home"
    project = copy_clone(built_clone, home)
    application = built_clone.folder.parent / "application"
    shutil.copytree(application, home / "application")
    params = project.folder / "params.yaml"
    text = params.read_text()
    assert text.count(str(application)) == 4
    params.write_text(text.replace(str(application), str(home / "application")))
    project.run("dvc", "remote", "add", "-q", "--default", "store", home / "store")
    project.run("git", "init", "-q", "--bare", "../origin")
    project.run("git", "remote", "add", "origin", "../origin")
    return project


def test_reviewed_critiques_train_a_version_that_a_serving_mac_pulls_and_rolls_back(
    project: Clone, tmp_path: Path
) -> None:
    home = project.folder.parent
    application, origin = home / "application", home / "origin"
    release(project, "v1")
    linked = project.metrics("ansel", "link")["linked"]

    mac = Clone(tmp_path)
    subprocess.run(["git", "clone", "-q", origin, mac.folder], check=True, timeout=PATIENCE)
    pull_v1 = mac.mondrian("pull", "ansel", "--rev", "v1", "--from", origin)
    assert "ansel@v1.0.0 is active" in pull_v1
    flags = service_flags(mac, application)
    with run_service(tmp_path, *flags) as service, service.client() as client:
        collect_feedback(client)
        report = ("rollout", "report", "--db", application / "mondrian.db", "--advisor", "ansel")
        assert "ansel@v1.0.0" in json.dumps(json.loads(mac.mondrian(*report, "--json")))

    params = project.folder / "params.yaml"
    params.write_text(params.read_text().replace("epochs: 3", "epochs: 1"))
    release(project, "v2")
    link = project.metrics("ansel", "link")
    assert link["linked"] == linked + 2 * NUM_REVIEWED // 3
    assert link["rejected"]["unreviewed"] >= NUM_REVIEWED // 3
    project.mondrian("promote", "ansel", "--version", "v2", "--stage", "prod")
    project.run("git", "push", "-q", "origin", "--tags")

    with run_service(tmp_path, *flags) as service, service.client() as client:
        first_version = served_version(client)
        version = pull_v2_under_load(mac, origin, service, first_version)
        record = mac.folder / "models/serving/ansel/current/release.json"
        assert json.loads(record.read_text())["adapter_version"] == version
        rollout = mac.mondrian("rollout", "ansel", "--db", application / "mondrian.db")
        assert "ansel@v2.0.0" in rollout
        rollback = mac.mondrian("rollback", "ansel", "--db", application / "mondrian.db")
        assert "ansel@v1.0.0 is active again" in rollback
        assert "the rollout of ansel@v2.0.0 has ended" in rollback
        wait_for(lambda: served_version(client) == first_version)


def release(project: Clone, version: str) -> None:
    """Train, commit, release and push a version."""
    project.run("dvc", "repro", "evaluate@ansel")
    project.commit(f"train {version}")
    reason = "the sample is small"  # so gates may not hold
    project.mondrian("release", "ansel", "--version", version, "--reason", reason)
    project.run("dvc", "push", "-q", "train@ansel")
    project.run("git", "push", "-q", "origin", "HEAD", "--tags")


def service_flags(mac: Clone, application: Path) -> tuple[object, ...]:
    """Shorten the steps of rollout.yaml; return flags for an A/B test with rollouts."""
    file = mac.folder / "rollout.yaml"
    steps = [
        {"share": share, "hours": 0, "jobs": 5, "requires": "guardrails"} for share in (0.5, 1.0)
    ]
    config = yaml.safe_load(file.read_text()) | {"steps": steps, "check_interval_seconds": 0.5}
    file.write_text(yaml.safe_dump(config))
    return (
        *("--lora_path", mac.folder / "models/serving"),
        *("--model_mode", "ab_test"),
        *("--rollout", file),
        *("--db", application / "mondrian.db"),
        *("--data", application / "source"),
    )


def collect_feedback(client: httpx2.Client) -> None:
    """Request critiques by the adapter and review them, then critiques by the base."""
    for i in range(NUM_REVIEWED):
        job = analyze_as(client, scene_photo(i), f"client-{i}", "lora")["job_id"]
        review(client, job, write_critique("ansel", draw_scene(SEED, i)), i)
    for i in range(12):
        analyze_as(client, scene_photo(i % 3), f"visitor-{i}", "baseline")


def scene_photo(i: int) -> bytes:
    """Return a photo that is not in the training data."""
    content = BytesIO()
    render(draw_scene(SEED, i), 640, 512).save(content, "JPEG", quality=92)
    return content.getvalue()


def pull_v2_under_load(
    mac: Clone, origin: Path, service: ServiceProcess, first_version: str
) -> str:
    """Pull v2 while clients send requests; return its version once it serves."""
    with service.client() as client, load(service) as statuses:
        output = mac.mondrian("pull", "ansel", "--stage", "prod", "--from", origin)
        assert "ansel@v2.0.0 is active" in output
        version = wait_for(lambda: served_version(client).replace(first_version, ""))
    assert len(statuses) > 1
    assert set(statuses) == {200}
    return version


def served_version(client: httpx2.Client) -> str:
    """Return the adapter version that a fixed client gets."""
    return str(analyze_as(client, scene_photo(0), "somebody", "lora")["adapter_version"])


def review(client: httpx2.Client, job: str, advisors_critique: Critique, i: int) -> None:
    """Accept one third of the critiques, correct one third, and leave the rest unreviewed."""
    correction = advisors_critique.model_dump(mode="json")
    feedback = (
        {"verdict": "accepted", "thumbs": 1},
        {"verdict": "corrected", "thumbs": -1, "critique": correction},
        None,
    )[i % 3]
    if feedback:
        response = client.post(f"/jobs/{job}/feedback", json=feedback)
        assert response.status_code == 200, response.text


@contextmanager
def load(service: ServiceProcess) -> Iterator[list[int]]:
    """Run two clients that send requests without a pause; yield the statuses they get."""
    statuses: list[int] = []
    done = Event()

    def run_client(number: int) -> None:
        files = {"image": ("lake.jpg", scene_photo(100 + number))}
        with service.client() as client:
            while not done.is_set():
                response = client.post("/analyze", files=files, data={"advisor": "ansel"})
                statuses.append(response.status_code)

    threads = [Thread(target=run_client, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield statuses
    finally:
        done.set()
        for thread in threads:
            thread.join(PATIENCE)
