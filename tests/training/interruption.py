"""A run that is interrupted after some checkpoints."""

from dataclasses import dataclass

from mondrian.training.checkpoint import Checkpoint, CheckpointState


class Interrupted(Exception):
    pass


@dataclass(frozen=True)
class InterruptingCheckpoint(Checkpoint):
    """Interrupts the run after some saves."""

    saves_left: list[int]

    def save(self, state: CheckpointState) -> None:
        super().save(state)
        self.saves_left[0] -= 1
        if not self.saves_left[0]:
            raise Interrupted
