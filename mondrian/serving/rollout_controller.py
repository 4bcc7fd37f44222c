"""The service's own hand on roll-outs: begins them, tells the draw how they stand, decides.

The state lies in the database, so that several services and every start go on with the same.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from mondrian.registry.local_store import link_control_version
from mondrian.rollout.actions import advance, current_verdict, roll_back
from mondrian.rollout.config import RolloutConfig
from mondrian.rollout.decision import Verdict
from mondrian.rollout.store import BACK, Actor, Candidate, RolloutRecord, RolloutStore
from mondrian.serving.assignment import RolloutSnapshot
from mondrian.serving.engines.base import Adapter
from mondrian.storage.engine import format_database_error

POLL_INTERVAL = (
    0.5  # seconds between two looks at what the adapters are, and at what others decided
)
ROLLOUT_START_TIMEOUT = 5.0  # seconds that a request waits for a new version's roll-out to begin
NOT_BEGUN = "its roll-out has not begun yet"
log = logging.getLogger("mondrian.rollout")
AdapterLoader = Callable[[str, str, Path], Awaitable[Adapter | None]]  # advisor, name, folder


def control_name(advisor: str) -> str:
    """What the engine calls the adapter that answers beside an advisor's newest."""
    return f"{advisor}~control"


class RolloutController:
    """Roll-outs of the advisors whose adapter serves.

    adapters  what serves, by advisor
    adopt     makes an engine load an adapter under a name; None where it cannot
    stands    is read at each draw: it is replaced as a whole
    """

    def __init__(
        self,
        rollouts: RolloutStore,
        settings: RolloutConfig,
        advisors: tuple[str, ...],
        adapters: Mapping[str, Adapter],
        adopt: AdapterLoader | None,
    ) -> None:
        self.rollouts, self.settings, self.advisors = rollouts, settings, advisors
        self.adapters, self.adopt = adapters, adopt
        self.stands: dict[str, RolloutSnapshot] = {}
        self._rollout_by_control: dict[
            str, str
        ] = {}  # for which roll-out a control was last asked to load
        self._decided = float("-inf")

    async def refresh(self) -> None:
        """Begin what is new, and see what others decided."""
        for advisor in self.advisors:
            adapter = self.adapters.get(advisor)
            if adapter is None or not adapter.serves:
                continue
            entry = await asyncio.to_thread(
                self.rollouts.begin,
                Candidate(advisor, adapter.version, Path(adapter.folder).name, adapter.folder),
                self.settings.baseline if self.adopt else "base",
                self.settings.steps[0].share == 1,
            )
            control = await self._control(entry)
            stand = self.snapshot_rollout(entry, control)
            if self.stands.get(advisor) != stand:
                self.stands = {**self.stands, advisor: stand}
                if control:
                    await asyncio.to_thread(link_control_version, Path(entry.control_folder))
                log.info(
                    "roll-out %s (%s): %s, step %d, %.0f %% of clients",
                    entry.id,
                    entry.name,
                    entry.state,
                    entry.step + 1,
                    100 * stand.share,
                )

    def snapshot_rollout(self, entry: RolloutRecord, control: str) -> RolloutSnapshot:
        """What the draw needs to know of a roll-out."""
        step = min(entry.step, len(self.settings.steps) - 1)
        gone = entry.state == BACK
        return RolloutSnapshot(
            entry.id,
            entry.version,
            step,
            0.0 if gone else self.settings.steps[step].share,
            control,
            f"it was rolled back: {entry.reason or 'by a person'}" if gone else "",
            is_evidence=bool(control) or not entry.control_version,
        )

    async def _control(self, entry: RolloutRecord) -> str:
        """Name in the engine of the adapter that serves beside; empty for the base."""
        if not entry.control_version or self.adopt is None:
            return ""
        name = control_name(entry.advisor)
        adapter = self.adapters.get(name)
        if not (adapter and adapter.version == entry.control_version):
            if (
                self._rollout_by_control.get(name) == entry.id
            ):  # once: a model that dies of it loads no more
                return ""
            self._rollout_by_control[name] = entry.id
            adapter = await self.adopt(entry.advisor, name, Path(entry.control_folder))
        if adapter and adapter.version == entry.control_version and not adapter.fault:
            return name
        reason = (
            adapter.fault or f"it is of version {adapter.version} now"
            if adapter
            else "it died of it"
        )
        log.error(
            "roll-out %s: %s cannot serve as control; the base does, and nothing is compared: %s",
            entry.id,
            entry.control,
            reason,
        )
        return ""

    def decide(self) -> list[tuple[RolloutRecord, Verdict]]:
        """Look at the numbers of each roll-out and act on them; what was done. In a thread."""
        decisions = []
        for stand in self.stands.values():
            entry = self.rollouts.get(stand.rollout)
            if entry is None:
                continue
            verdict = current_verdict(self.rollouts, self.settings, entry, time.time())
            if verdict.action == "roll back":
                done = roll_back(self.rollouts, entry, Actor("service", verdict.reason))
            elif verdict.action == "advance" and self.settings.automatic:
                done = advance(
                    self.rollouts, self.settings, entry, Actor("service", verdict.reason)
                )
            else:
                done = False
            if done:
                decisions.append((entry, verdict))
        return decisions

    def current_snapshot(self, advisor: str) -> RolloutSnapshot:
        """How an advisor's roll-out stands now; a version that has none yet answers nobody."""
        stand, adapter = self.stands.get(advisor), self.adapters.get(advisor)
        if adapter is None or not adapter.serves:
            return RolloutSnapshot(
                "", "", 0, 0.0, withdrawal_reason=f"no adapter of {advisor} serves"
            )
        if stand is None or stand.version != adapter.version:
            control = stand.control if stand else ""
            return RolloutSnapshot("", adapter.version, 0, 0.0, control, NOT_BEGUN)
        return stand

    async def wait_for_start(self, advisor: str) -> None:
        """Wait for the roll-out of the version that serves, for PATIENCE at most.

        A version that was just pulled serves a look sooner than it is dealt to anybody: what comes
        between waits, in place of an answer by the base.
        """
        until = time.monotonic() + ROLLOUT_START_TIMEOUT
        while (
            self.current_snapshot(advisor).withdrawal_reason == NOT_BEGUN
            and time.monotonic() < until
        ):
            await asyncio.sleep(POLL_INTERVAL / 10)

    async def refresh_safely(self) -> None:
        """Look, and decide where it is time; a database that is away costs time alone."""
        try:
            await self.refresh()
            if time.monotonic() - self._decided >= self.settings.check_interval_seconds:
                self._decided = time.monotonic()
                for entry, verdict in await asyncio.to_thread(self.decide):
                    log.warning("roll-out %s: %s: %s", entry.id, verdict.status, verdict.reason)
        except SQLAlchemyError as error:
            log.error("roll-out: database: %s", format_database_error(error))
        except Exception:  # critiques go on as they were dealt last
            log.exception("roll-out: it stays as it is")

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await asyncio.sleep(POLL_INTERVAL)
            await self.refresh_safely()
