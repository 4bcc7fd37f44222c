"""A database with a rollout, as five days of service would have left it."""

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from threading import Thread
from typing import Any

import uvicorn
from sqlalchemy import Connection

from mondrian.core.params import load_params
from mondrian.rollout.config import RolloutConfig
from mondrian.rollout.store import Actor, Candidate, RolloutRecord, RolloutStore
from mondrian.serving.app import create_app
from mondrian.serving.engines.base import Completion, CritiqueRequest, EngineState
from mondrian.serving.service import Service
from mondrian.serving.settings import ServiceSettings
from mondrian.storage.engine import open_engine
from mondrian.storage.tables import decisions, feedback, jobs, migrate, rollouts
from tests.waiting import wait_for

DAY = 86400.0  # seconds
SHARES = (0.05, 0.25, 0.5)  # of the first three steps of rollout.yaml


def create_database(path: Path) -> RolloutStore:
    """Return the store of an empty database."""
    engine = open_engine(str(path))
    migrate(engine)
    return RolloutStore(engine)


def start_rollout(
    store: RolloutStore,
    advisor: str = "ansel",
    version: str = "5f3a9c0d1e2b",
    name: str = "ansel@v2.0.0",
    days: float = 5,
    shares: tuple[float, ...] = SHARES,
    **columns: Any,
) -> RolloutRecord:
    """Return a rollout that started days ago and spent equal time at each step of `shares`.

    columns  of its row that replace the defaults
    """
    record = store.get_or_start(Candidate(advisor, version, name, f"shelf/{name}"), "base")
    now = time.time()
    start, step_seconds = now - days * DAY, days * DAY / len(shares)
    for step, share in enumerate(shares[1:], 1):
        record = _current(store, record)
        reason = f"guardrails hold; → {share:.0%} of clients"
        store.change(record, "advance", Actor("service", reason), step=step)
    row = {
        "began": start,
        "evidence_from": start,
        "step_began": now - step_seconds,
        "control": "ansel@v1.0.0",
    }
    with store.engine.begin() as connection:
        connection.execute(rollouts.update().where(rollouts.c.id == record.id), row | columns)
        _backdate_decisions(connection, record.id, start, step_seconds)
    return _current(store, record)


def add_jobs(
    store: RolloutStore,
    record: RolloutRecord,
    count: int = 300,
    days: float = 5,
    shares: tuple[float, ...] = SHARES,
    up: tuple[float, float] = (0.86, 0.8),
    failing: float = 0.01,
    slow: float = 0.01,
    rated: float = 0.6,
    seed: int = 1,
) -> None:
    """Add jobs of both arms, some of them rated, spread evenly over the days.

    up  share of thumbs up of candidate and control
    """
    rng, start = random.Random(seed), time.time() - days * DAY
    job_rows, feedback_rows = [], []
    for i in range(count):
        step = i * len(shares) // count
        is_candidate = rng.random() < shares[step]
        queued_at = start + (i + rng.random()) * days * DAY / count
        failed = rng.random() < failing * (1 if is_candidate else 0.5)
        latency = rng.lognormvariate(2.4 if is_candidate else 2.5, 0.4)
        latency += 200 if rng.random() < slow else 0
        job = {
            "id": f"{record.version}-{i}",
            "advisor": record.advisor,
            "kind": "direct",
            "subject": f"client-{i}",
            "side": "candidate" if is_candidate else "control",
            "share": shares[step],
            "step": step,
            "rollout": record.id,
            "status": "failed" if failed else "completed",
            "error": "the model ran away" if failed else None,
            "queued_at": queued_at,
            "completed_at": datetime.fromtimestamp(queued_at + latency, UTC).isoformat(),
            "model_used": "ab_test_fine_tuned" if is_candidate else "ab_test_base",
            "compliant": 1,
            "latency_seconds": latency,
            "tokens": int(rng.gauss(520 if is_candidate else 560, 60)),
            "thumbs": None,
            "filename": f"uploads/{i}.jpg",
        }
        if not failed and rng.random() < rated:
            job["thumbs"] = 1 if rng.random() < up[not is_candidate] else -1
            verdict = rng.choice(["accepted", "accepted", None])
            feedback_rows.append(_feedback_row(job, queued_at + 600, verdict))
        job_rows.append(job)
    with store.engine.begin() as connection:
        connection.execute(jobs.insert(), job_rows)
        if feedback_rows:
            connection.execute(feedback.insert(), feedback_rows)


def _feedback_row(job: dict[str, Any], rated_at: float, verdict: str | None) -> dict[str, Any]:
    shared = {name: job[name] for name in ("advisor", "rollout", "side", "thumbs")}
    return {"job": job["id"], **shared, "verdict": verdict, "at": rated_at}


def _current(store: RolloutStore, record: RolloutRecord) -> RolloutRecord:
    current = store.get(record.id)
    assert current
    return current


def _backdate_decisions(
    connection: Connection, rollout: str, start: float, step_seconds: float
) -> None:
    query = decisions.select().where(decisions.c.rollout == rollout).order_by(decisions.c.number)
    for i, row in enumerate(connection.execute(query).all()):
        update = decisions.update().where(decisions.c.number == row.number)
        connection.execute(update, {"at": start + i * step_seconds})


def create_healthy_rollout(path: Path, **options: Any) -> tuple[RolloutStore, RolloutRecord]:
    """Return a healthy rollout at its third step: 300 jobs in five days."""
    store = create_database(path)
    record = start_rollout(store)
    add_jobs(store, record, **options)
    return store, record


class IdleEngine:
    """An engine without a model, for pages that need none."""

    def __init__(self) -> None:
        self.state = EngineState()

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        pass

    async def critique(self, question: CritiqueRequest) -> Completion:
        raise NotImplementedError


@contextmanager
def serve_pages(path: Path, rollout: RolloutConfig | None = None, key: str = "") -> Iterator[str]:
    """Serve the HTTP part of a service over a database in a thread; yields its URL."""
    params = load_params(Path(__file__).parent.parent / "params.yaml")
    settings = ServiceSettings(params, None, str(path), path.parent / "data", key, rollout=rollout)
    app = create_app(Service(settings, IdleEngine()))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", lifespan="off"))
    thread = Thread(target=server.run, daemon=True)
    thread.start()
    wait_for(lambda: server.started)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
