"""A database with a roll-out in it as five days of service would have left it."""

from __future__ import annotations

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
from mondrian.rollout.store import RolloutRecord, RolloutStore
from mondrian.serving.app import create_app
from mondrian.serving.engines.base import Completion, CritiqueRequest, EngineState
from mondrian.serving.service import Service
from mondrian.serving.settings import ServiceSettings
from mondrian.storage.engine import open_engine
from mondrian.storage.tables import decisions, feedback, jobs, migrate, rollouts

DAY = 86400.0  # seconds
SHARES = (0.05, 0.25, 0.5)  # of the first three steps of rollout.yaml


def database(path: Path) -> RolloutStore:
    """An empty one."""
    engine = open_engine(str(path))
    migrate(engine)
    return RolloutStore(engine)


def begun(
    told: RolloutStore,
    advisor: str = "ansel",
    version: str = "5f3a9c0d1e2b",
    name: str = "ansel@v2.0.0",
    days: float = 5,
    shares: tuple[float, ...] = SHARES,
    **values: Any,
) -> RolloutRecord:
    """A roll-out that began days ago, and came to a step of `shares` with equal time for each.

    values  of its row, in place of what follows from that
    """
    entry = told.begin(advisor, version, name, f"shelf/{name}", "base")
    now = time.time()
    start, each = now - days * DAY, days * DAY / len(shares)
    for step, share in enumerate(shares[1:], 1):
        entry = _current(told, entry)
        told.change(
            entry, "service", "advance", f"guardrails hold; → {share:.0%} of clients", step=step
        )
    row = {
        "began": start,
        "evidence_from": start,
        "step_began": now - each,
        "control": "ansel@v1.0.0",
    }
    with told.engine.begin() as connection:
        connection.execute(rollouts.update().where(rollouts.c.id == entry.id), row | values)
        _backdate(connection, entry.id, start, each)
    return _current(told, entry)


def served(
    told: RolloutStore,
    entry: RolloutRecord,
    count: int = 300,
    days: float = 5,
    shares: tuple[float, ...] = SHARES,
    up: tuple[float, float] = (0.86, 0.8),
    failing: float = 0.01,
    slow: float = 0.01,
    rated: float = 0.6,
    seed: int = 1,
) -> None:
    """Jobs of both arms, some of them rated, spread evenly over the days.

    up  share of thumbs up of candidate and control
    """
    draw, start = random.Random(seed), time.time() - days * DAY
    kept, said = [], []
    for i in range(count):
        step = i * len(shares) // count
        new = draw.random() < shares[step]
        asked = start + (i + draw.random()) * days * DAY / count
        job = _job(entry, i, new, shares[step], step, asked, draw, failing, slow)
        if job["status"] == "completed" and draw.random() < rated:
            job["thumbs"] = 1 if draw.random() < up[not new] else -1
            said.append(_said(entry, job, asked + 600, draw))
        kept.append(job)
    with told.engine.begin() as connection:
        connection.execute(jobs.insert(), kept)
        if said:
            connection.execute(feedback.insert(), said)


def _job(
    entry: RolloutRecord,
    i: int,
    new: bool,
    share: float,
    step: int,
    asked: float,
    draw: random.Random,
    failing: float,
    slow: float,
) -> dict[str, Any]:
    failed = draw.random() < failing * (1 if new else 0.5)
    seconds = draw.lognormvariate(2.4 if new else 2.5, 0.4) + (200 if draw.random() < slow else 0)
    return {
        "id": f"{entry.version}-{i}",
        "advisor": entry.advisor,
        "kind": "direct",
        "subject": f"client-{i}",
        "side": "candidate" if new else "control",
        "share": share,
        "step": step,
        "rollout": entry.id,
        "status": "failed" if failed else "completed",
        "error": "the model ran away" if failed else None,
        "queued_at": asked,
        "completed_at": datetime.fromtimestamp(asked + seconds, UTC).isoformat(),
        "model_used": "ab_test_fine_tuned" if new else "ab_test_base",
        "compliant": 1,
        "latency_seconds": seconds,
        "tokens": int(draw.gauss(520 if new else 560, 60)),
        "thumbs": None,
        "filename": f"uploads/{i}.jpg",
    }


def _said(
    entry: RolloutRecord, job: dict[str, Any], at: float, draw: random.Random
) -> dict[str, Any]:
    verdict = draw.choice(["accepted", "accepted", None])
    return {
        "job": job["id"],
        "advisor": entry.advisor,
        "rollout": entry.id,
        "side": job["side"],
        "thumbs": job["thumbs"],
        "verdict": verdict,
        "at": at,
    }


def _current(told: RolloutStore, entry: RolloutRecord) -> RolloutRecord:
    found = told.get(entry.id)
    assert found
    return found


def _backdate(connection: Connection, id: str, start: float, each: float) -> None:
    rows = connection.execute(
        decisions.select().where(decisions.c.rollout == id).order_by(decisions.c.number)
    ).all()
    for i, row in enumerate(rows):
        chosen = decisions.update().where(decisions.c.number == row.number)
        connection.execute(chosen, {"at": start + i * each})


def world(path: Path, **more: Any) -> tuple[RolloutStore, RolloutRecord]:
    """A healthy roll-out at its third step: 300 jobs in five days."""
    told = database(path)
    entry = begun(told)
    served(told, entry, **more)
    return told, entry


class Still:
    """An engine that never has a model: for pages that need none."""

    def __init__(self) -> None:
        self.state = EngineState()

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        pass

    async def critique(self, question: CritiqueRequest) -> Completion:
        raise NotImplementedError


@contextmanager
def site(path: Path, rollout: RolloutConfig | None = None, key: str = "") -> Iterator[str]:
    """The URL of a service's HTTP part over a database, in a thread of this process."""
    params = load_params(Path(__file__).parent.parent / "params.yaml")
    settings = ServiceSettings(params, None, str(path), path.parent / "data", key, rollout=rollout)
    app = create_app(Service(settings, Still()))
    config = uvicorn.Config(app, port=0, log_level="error", lifespan="off")
    server = uvicorn.Server(config)
    thread = Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
