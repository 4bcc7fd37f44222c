"""Progress of a training run: log, divergence checks, result, and trackers of its loss curves."""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any, Literal

from mondrian.core.errors import TrainingError
from mondrian.core.params import TrainParams
from mondrian.core.training_log import find_saved_epoch
from mondrian.model.lora import Tensors

NO_TIMING = dict.fromkeys(("seconds", "tokens_per_second", "peak_memory_gb"))
TrackerKind = Literal["none", "tensorboard", "wandb"]
_SMOOTHING = 0.9  # of the running mean of the loss
_MIN_STEPS = 10  # before a loss counts as growing
_GROWTH_FACTOR, _MIN_GROWTH = 3.0, 1.0  # over the lowest running mean: both must be exceeded


class DivergenceError(Exception):
    """The loss or its gradient is NaN or inf, or the loss keeps growing."""


@dataclass(frozen=True)
class StepTotals:
    """Sums over an optimizer step, of all ranks."""

    weight: float  # of the tokens
    pairs: int
    cross_entropy: float  # weighted
    odds_ratio_loss: float  # of the pairs
    preferred: float  # pairs with a better critique that is the more likely one


@dataclass
class TrainingProgress:
    """Progress of a run; all of it is in the checkpoint."""

    step: int = 0
    epoch: int = 1  # the current one
    position: int = 0  # updates done in it
    loss_sum: float = 0.0  # weighted loss of the epoch so far
    weight_sum: float = 0.0  # its weights
    # of the epoch so far: odds-ratio loss, pairs preferred, pairs
    pair_sums: list[float] = field(default_factory=lambda: [0.0] * 3)
    smoothed_loss: float | None = None  # running mean of the loss
    lowest_loss: float | None = None  # lowest running mean
    best: dict[str, float] | None = None  # epoch and val loss of the best weights
    epochs_since_best: int = 0  # for early stopping
    seconds: float = 0.0  # of training, over all interruptions
    tokens: int = 0  # trained on, over all interruptions
    log: list[dict[str, Any]] = field(default_factory=list)

    def log_base(self, metrics: dict[str, float]) -> dict[str, Any]:
        """Log metrics before the first step."""
        entry = {"step": 0, "epoch": 0} | _round(metrics)
        self.log.append(entry)
        return entry

    def log_step(self, totals: StepTotals, grad_norm: float, rate: float) -> dict[str, Any]:
        """Count one update and log it, or raise DivergenceError.

        Its loss is the mean cross-entropy, like the val loss; the odds-ratio loss is apart.
        """
        loss, weight = totals.cross_entropy / totals.weight, totals.weight
        self._check_finite("loss", loss)
        self._check_finite("gradient", grad_norm)
        self.step, self.position = self.step + 1, self.position + 1
        self.loss_sum, self.weight_sum = self.loss_sum + loss * weight, self.weight_sum + weight
        pair_totals = (totals.odds_ratio_loss, totals.preferred, totals.pairs)
        self.pair_sums = [a + b for a, b in zip(self.pair_sums, pair_totals, strict=True)]
        if self.smoothed_loss is None or self.lowest_loss is None:
            self.smoothed_loss = self.lowest_loss = loss
        else:
            self.smoothed_loss = _SMOOTHING * self.smoothed_loss + (1 - _SMOOTHING) * loss
            self.lowest_loss = min(self.lowest_loss, self.smoothed_loss)
        entry = {"step": self.step, "epoch": self.epoch, "loss": round(loss, 6), "rate": rate}
        entry |= _round(mean_preferences(*pair_totals))
        self.log.append(entry)
        bound = max(_GROWTH_FACTOR * self.lowest_loss, self.lowest_loss + _MIN_GROWTH)
        if self.step > _MIN_STEPS and self.smoothed_loss > bound:
            raise DivergenceError(
                f"the loss grew from {self.lowest_loss:.3f} to {self.smoothed_loss:.3f} by step "
                f"{self.step}"
            )
        return entry

    def _check_finite(self, name: str, value: float) -> None:
        if not isfinite(value):
            raise DivergenceError(f"the {name} at step {self.step + 1} is {value}")

    def log_epoch(self, metrics: dict[str, float]) -> dict[str, Any]:
        """Log the end of an epoch with val_loss and other metrics, or raise DivergenceError."""
        if not isfinite(metrics["val_loss"]):
            raise DivergenceError(f"the val loss of epoch {self.epoch} is {metrics['val_loss']}")
        entry: dict[str, Any] = {"step": self.step, "epoch": self.epoch}
        entry["train_loss"] = round(self.loss_sum / self.weight_sum, 6)
        entry |= _round(mean_preferences(*self.pair_sums) | metrics)
        self.log.append(entry)
        self.epochs_since_best += 1
        if self.best is None or entry["val_loss"] < self.best["val_loss"]:
            self.best = {"epoch": self.epoch, "val_loss": entry["val_loss"]}
            self.epochs_since_best = 0
        self.epoch, self.position = self.epoch + 1, 0
        self.loss_sum = self.weight_sum = 0.0
        self.pair_sums = [0.0] * 3
        return entry


def mean_preferences(odds_ratio_loss: float, preferred: float, pairs: float) -> dict[str, float]:
    """Return the means over pairs; nothing without pairs."""
    if not pairs:
        return {}
    return {
        "odds_ratio_loss": odds_ratio_loss / pairs,
        "preference_accuracy": preferred / pairs,
    }


def describe_preferences(metrics: dict[str, Any]) -> str:
    """Return the preference accuracy of the pairs, of val if there are any; "" without pairs."""
    for prefix, name in (("val_", "val "), ("", "train ")):
        if (accuracy := metrics.get(f"{prefix}preference_accuracy")) is not None:
            loss = metrics[f"{prefix}odds_ratio_loss"]
            return f"{name}preference accuracy {accuracy:.0%}, odds-ratio loss {loss:.3f}; "
    return ""


def _round(metrics: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 6) for name, value in metrics.items()}


@dataclass
class TrainResult:
    """Log and weights of a run; if it diverged, halt_reason and the best weights before."""

    params: TrainParams
    progress: TrainingProgress
    weights: Tensors
    peak_gb: float
    halt_reason: str | None = None
    num_pairs: tuple[int, int] = (0, 0)  # of train, of val

    @property
    def log(self) -> list[dict[str, Any]]:
        return self.progress.log

    def epochs(self) -> list[dict[str, Any]]:
        """Return the log's entries of whole epochs."""
        return [entry for entry in self.log if "val_loss" in entry]

    def saved_epoch(self) -> dict[str, Any]:
        """Return the log entry of the epoch that the saved weights are from."""
        return find_saved_epoch(self.log, "best" if self.halt_reason else self.params.save_weights)

    def metrics(self) -> dict[str, Any]:
        """Return the content of metrics/<advisor>/train.json; losses are the saved epoch's."""
        entry = self.saved_epoch()
        metrics = {k: v for k, v in entry.items() if k not in ("step", "epoch")}
        if any(self.num_pairs):
            metrics |= dict(zip(("train_pairs", "val_pairs"), self.num_pairs, strict=True))
        if "val_preference_accuracy" in self.log[0]:
            metrics["base_preference_accuracy"] = self.log[0]["val_preference_accuracy"]
        return metrics | {
            "epoch": entry["epoch"],
            "epochs": self.epochs()[-1]["epoch"],
            "steps": self.progress.step,
        }

    def timing(self) -> dict[str, float]:
        """Return the content of metrics/<advisor>/train_timing.json."""
        progress = self.progress
        return {
            "seconds": round(progress.seconds, 1),
            "tokens_per_second": round(progress.tokens / progress.seconds, 1),
            "peak_memory_gb": round(self.peak_gb, 3),
        }

    def summary(self, folder: Path) -> str:
        m, t = self.metrics(), self.timing()
        return (
            f"train {folder}: val loss {m['val_loss']:.3f} in epoch {m['epoch']} of {m['epochs']}, "
            f"{describe_preferences(m)}{m['steps']} steps in {t['seconds']:.0f} s, "
            f"{t['tokens_per_second']:.0f} tokens/s, peak {t['peak_memory_gb']:.2f} GB"
        )


@dataclass(frozen=True)
class Tracker:
    """A second destination for the entries of training_log.jsonl."""

    log: Callable[[dict[str, Any]], None] = lambda entry: None
    close: Callable[[], None] = lambda: None


def open_tracker(kind: TrackerKind, folder: Path, name: str) -> Tracker:
    """Open the tracker of params.yaml, or raise TrainingError if its package is not installed."""
    try:
        if kind == "tensorboard":
            return _open_tensorboard(folder)
        if kind == "wandb":
            return _open_wandb(folder, name)
    except ImportError as error:
        package = {"tensorboard": "tensorboardX", "wandb": "wandb"}[kind]
        raise TrainingError(
            f"machine.tracker is {kind}, and {error.name} is not installed; "
            f"pip install {package}, or set it to none"
        ) from None
    return Tracker()


def _open_tensorboard(folder: Path) -> Tracker:
    from tensorboardX import SummaryWriter

    writer = SummaryWriter(str(folder))

    def log(entry: dict[str, Any]) -> None:
        for name, value in _numbers(entry).items():
            writer.add_scalar(name, value, entry["step"])

    return Tracker(log, writer.close)


def _open_wandb(folder: Path, name: str) -> Tracker:
    import wandb

    folder.mkdir(parents=True, exist_ok=True)
    run = wandb.init(project="mondrian", name=name, dir=str(folder), resume="allow")
    return Tracker(lambda entry: run.log(_numbers(entry), step=int(entry["step"])), run.finish)


def _numbers(entry: dict[str, Any]) -> dict[str, float]:
    return {k: v for k, v in entry.items() if k != "step" and isinstance(v, int | float)}
