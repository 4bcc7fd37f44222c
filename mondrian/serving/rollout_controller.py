"""The service's part in rollouts: starts them, decides, and passes their state to the assignment.

The state is in the database, so several services and restarts continue the same rollout.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from mondrian.registry.local_store import link_control_version, read_activation
from mondrian.rollout.actions import advance, current_verdict, hold, roll_back
from mondrian.rollout.activation import follow_activation, rollback_reason
from mondrian.rollout.config import RolloutConfig
from mondrian.rollout.decision import RolloutVerdict
from mondrian.rollout.store import ROLLED_BACK, Actor, Candidate, RolloutRecord, RolloutStore
from mondrian.serving.assignment import RolloutSnapshot
from mondrian.serving.engines.base import Adapter
from mondrian.storage.engine import format_database_error

POLL_INTERVAL = 0.5  # seconds
ROLLOUT_START_TIMEOUT = 5.0  # seconds that a request waits for the rollout of a new version
NOT_BEGUN = "its rollout has not begun yet"
log = logging.getLogger("mondrian.rollout")
AdapterLoader = Callable[[str, str, Path], Awaitable[Adapter | None]]  # advisor, name, folder


def control_name(advisor: str) -> str:
    """Return the engine's name for the adapter that a candidate is compared with."""
    return f"{advisor}~control"


class RolloutController:
    """Starts, advances and rolls back the rollouts of the adapters that serve."""

    def __init__(
        self,
        store: RolloutStore,
        config: RolloutConfig,
        advisors: tuple[str, ...],
        adapters: Mapping[str, Adapter],
        load_adapter: AdapterLoader | None,  # None if the engine cannot
    ) -> None:
        self.store, self.config, self.advisors = store, config, advisors
        self.adapters, self.load_adapter = adapters, load_adapter
        self._snapshots: dict[str, RolloutSnapshot] = {}
        self._control_loads: dict[str, str] = {}  # name -> id of the rollout that loaded it last
        self._last_decision = float("-inf")

    async def refresh(self) -> None:
        """Start the rollouts of new versions, and read what others decided."""
        for advisor in self.advisors:
            adapter = self.adapters.get(advisor)
            if adapter is None or not adapter.serves:
                continue
            record = await asyncio.to_thread(self._get_or_start, advisor, adapter)
            control = await self._load_control(record)
            snapshot = self._build_snapshot(record, control)
            if self._snapshots.get(advisor) != snapshot:
                self._snapshots = {**self._snapshots, advisor: snapshot}  # a thread may iterate it
                if control:
                    await asyncio.to_thread(link_control_version, Path(record.control_folder))
                step = f"step {record.step + 1}, {snapshot.share:.0%} of clients"
                log.info("rollout %s (%s): %s, %s", record.id, record.name, record.state, step)

    def _get_or_start(self, advisor: str, adapter: Adapter) -> RolloutRecord:
        """Return the rollout of an adapter that serves, after `mondrian rollback` did its part."""
        folder = Path(adapter.folder)
        candidate = Candidate(advisor, adapter.version, folder.name, adapter.folder)
        snapshot = self._snapshots.get(advisor)
        if snapshot is None or snapshot.rollout != candidate.id:
            self._follow_activation(candidate, folder)
        baseline = self.config.baseline if self.load_adapter else "base"
        return self.store.get_or_start(candidate, baseline, self.config.steps[0].share == 1)

    def _follow_activation(self, candidate: Candidate, folder: Path) -> None:
        """Log that a version serves now; if by a rollback, end the rollout of the one before."""
        newest, _ = self.store.split_newest(candidate.advisor)
        if not newest or newest[0].id == candidate.id:
            return
        activation = read_activation(folder)
        if activation and activation.activated_at <= self.store.activated_at(newest[0]):
            return  # by another service of this database, after this one's version
        taken_back, reason = "", f"{candidate.name} is active again"
        if activation and activation.taken_back:
            name = f"{candidate.advisor}@{activation.taken_back}"
            taken_back = newest[0].id if newest[0].name == name else ""
            reason = rollback_reason(candidate.name)
        follow_activation(self.store, candidate.id, taken_back, Actor("service", reason))

    def _build_snapshot(self, record: RolloutRecord, control: str) -> RolloutSnapshot:
        step = min(record.step, len(self.config.steps) - 1)
        share, reason = self.config.steps[step].share, ""
        if record.state == ROLLED_BACK:
            share, reason = 0.0, f"it was rolled back: {record.reason or 'by a person'}"
        is_evidence = bool(control) or not record.control_version
        return RolloutSnapshot(record.id, record.version, step, share, control, reason, is_evidence)

    async def _load_control(self, record: RolloutRecord) -> str:
        """Return the engine's name of the control; empty for the base."""
        if not record.control_version or self.load_adapter is None:
            return ""
        name = control_name(record.advisor)
        adapter = self.adapters.get(name)
        if not (adapter and adapter.version == record.control_version):
            if self._control_loads.get(name) == record.id:
                return ""  # tried once: a model that crashes on it must not load it again
            self._control_loads[name] = record.id
            adapter = await self.load_adapter(record.advisor, name, Path(record.control_folder))
        if adapter and adapter.version == record.control_version and not adapter.fault:
            return name
        reason = "the model process ended while it loaded it"
        if adapter:
            reason = adapter.fault or f"its version is {adapter.version} now"
        message = f"rollout {record.id}: {record.control} cannot serve as control"
        log.error("%s; the base does, and nothing is compared: %s", message, reason)
        return ""

    def decide(self) -> list[tuple[RolloutRecord, RolloutVerdict]]:
        """Act on the metrics of each rollout; return the actions. To be called in a thread."""
        decisions = []
        for snapshot in self._snapshots.values():
            record = self.store.get(snapshot.rollout)
            if record is None:
                continue
            verdict = current_verdict(self.store, self.config, record, time.time())
            done = False
            if verdict.action == "roll back":
                done = roll_back(self.store, record, Actor("service", verdict.reason))
            elif verdict.action == "hold":
                done = hold(self.store, record, Actor("service", verdict.reason))
            elif verdict.action == "advance" and self.config.automatic:
                done = advance(self.store, self.config, record, Actor("service", verdict.reason))
            if done:
                decisions.append((record, verdict))
        return decisions

    def current_snapshot(self, advisor: str) -> RolloutSnapshot:
        """Return the state of an advisor's rollout; until it has begun, it answers no client."""
        snapshot, adapter = self._snapshots.get(advisor), self.adapters.get(advisor)
        if adapter is None or not adapter.serves:
            return RolloutSnapshot("", "", 0, 0.0, "", f"no adapter of {advisor} serves")
        if snapshot is None or snapshot.version != adapter.version:
            control = snapshot.control if snapshot else ""
            return RolloutSnapshot("", adapter.version, 0, 0.0, control, NOT_BEGUN)
        return snapshot

    async def wait_for_start(self, advisor: str) -> None:
        """Wait for the rollout of a new version, which begins slightly after the version serves.

        Without the wait, requests in between would fall back to the base.
        """
        deadline = time.monotonic() + ROLLOUT_START_TIMEOUT
        while self.current_snapshot(advisor).withdrawal_reason == NOT_BEGUN:
            if time.monotonic() >= deadline:
                return
            await asyncio.sleep(POLL_INTERVAL / 10)

    async def refresh_safely(self) -> None:
        """Refresh, and decide if it is time; on an error the last state stays in use."""
        try:
            await self.refresh()
            if time.monotonic() - self._last_decision >= self.config.check_interval_seconds:
                self._last_decision = time.monotonic()
                for record, verdict in await asyncio.to_thread(self.decide):
                    log.warning("rollout %s: %s: %s", record.id, verdict.status, verdict.reason)
        except SQLAlchemyError as error:
            log.error("rollout: database: %s", format_database_error(error))
        except Exception:
            log.exception("rollout: it stays as it is")

    async def run(self) -> None:
        while True:
            await asyncio.sleep(POLL_INTERVAL)
            await self.refresh_safely()
