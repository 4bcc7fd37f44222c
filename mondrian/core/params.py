"""Types of params.yaml. The file holds all defaults and explains every key."""

import os
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from mondrian.core.advisor_id import AdvisorId
from mondrian.core.base_source import check_base_source
from mondrian.core.errors import ParamsError
from mondrian.core.params_section import Section, load_yaml

IMAGE_PLACEHOLDER = "<image>"  # in a message, as in LLaMA-Factory and ms-swift


def _check_path(path: str) -> str:
    if path.startswith("~"):
        raise ValueError(f"DVC does not expand ~; write {os.path.expanduser(path)}")
    if "\0" in path:
        raise ValueError("no file name has a NUL character")
    return path


def _check_folds(folds: int) -> int:
    if folds == 1:
        raise ValueError("an adapter is trained on the other folds; it must be 0 or at least 2")
    return folds


AtLeastOne = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
PathName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]  # part of a path
PathText = Annotated[str, Field(min_length=1), AfterValidator(_check_path)]
ScoreRule = Literal["keep", "leave_out", "text_only"]
FlagRule = Literal["leave_out", "keep"]


class ApplicationParams(Section):
    db_path: PathText
    source_dir: PathText
    analysis_dir: PathText
    html_dir: PathText


DEMO_NOTE = (
    "mondrian-tiny is a small demo model that knows only rendered landscapes: its critiques of "
    "other photos mean nothing"
)
_DEMO_BASE = "mondrian-tiny"


class BaseParams(Section):
    name: PathName
    source: Annotated[PathText, AfterValidator(check_base_source)]

    @property
    def is_demo(self) -> bool:
        return Path(self.source).name == _DEMO_BASE


class ImageParams(Section):
    min_pixels: Annotated[int, Field(ge=1024)]
    max_pixels: Annotated[int, Field(ge=1024, le=16_777_216)]
    duplicate_similarity: Annotated[float, Field(ge=0.4, le=1)]


class LinkParams(Section):
    include_served: Literal["reviewed", "corrected", "leave_out"]
    made_by_adapter: FlagRule
    template_scores: ScoreRule
    constant_scores: ScoreRule
    unscored: Literal["leave_out", "text_only"]
    shared_text: FlagRule
    wrong_picture: FlagRule
    dimension_twice: FlagRule
    repeated_advice: FlagRule
    overall_off_mean: FlagRule
    overall_tolerance: Annotated[float, Field(ge=0, le=10)]
    thumbnails: Literal["use", "leave_out"]


class PrepareParams(Section):
    val_fraction: Annotated[float, Field(gt=0, lt=1)]
    test_fraction: Annotated[float, Field(ge=0, lt=1)]
    folds: Annotated[int, Field(ge=0, le=50), AfterValidator(_check_folds)]
    session_minutes: Annotated[int, Field(ge=0, le=10_080)]
    seed: Seed
    min_train: AtLeastOne
    min_val: AtLeastOne
    min_test: AtLeastOne
    max_group_in_val: AtLeastOne


class TrainParams(Section):
    method: Literal["sft", "orpo"]
    orpo_beta: Annotated[float, Field(gt=0, le=100)]
    lora_r: AtLeastOne
    lora_alpha: Annotated[float, Field(gt=0)]
    lora_dropout: Annotated[float, Field(ge=0, lt=1)]
    target_modules: Literal["attention", "mlp", "both"]
    train_projector: bool
    num_layers: Annotated[int, Field(ge=0)]
    rslora: bool
    dora: bool
    lora_plus_ratio: Annotated[float, Field(ge=1, le=1000)]
    epochs: Annotated[int, Field(ge=1, le=10_000)]
    batch_size: AtLeastOne
    gradient_accumulation_steps: AtLeastOne
    learning_rate: Annotated[float, Field(gt=0, le=1)]
    lr_schedule: Literal["cosine", "linear", "constant"]
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)]
    score_weight: Annotated[float, Field(ge=1, le=1000)]
    weight_decay: Annotated[float, Field(ge=0, le=100)]
    max_grad_norm: Annotated[float, Field(gt=0)]
    max_seq_length: Annotated[int, Field(ge=64)]
    save_weights: Literal["best", "last"]
    tune_fraction: Annotated[float, Field(gt=0, lt=1)]
    early_stopping_patience: Annotated[int, Field(ge=0)]
    val_samples: Annotated[int, Field(ge=0)]
    gradient_checkpointing: bool
    loss_chunk_size: Annotated[int, Field(ge=1, le=1_000_000)]
    compile: bool
    seed: Seed

    def with_epochs(self, epochs: int | None) -> Self:
        """Return a copy with another number of epochs, unless it is None; checks the number."""
        if epochs is not None and not 1 <= epochs <= 10_000:
            raise ParamsError(f"--epochs is {epochs}; it must be from 1 to 10,000")
        return self.model_copy(update={"epochs": epochs or self.epochs})


class IndexWeights(Section):
    scores: Annotated[float, Field(ge=0)]
    text: Annotated[float, Field(ge=0)]
    grounding: Annotated[float, Field(ge=0)]

    @model_validator(mode="after")
    def _check_any_weight(self) -> Self:
        if not sum(self.model_dump().values()):
            raise ValueError("evaluate.index has no weight above 0; set at least one of its three")
        return self


class GateParams(Section):
    base_compliance: Annotated[float, Field(ge=0, le=1)]
    compliance: Annotated[float, Field(ge=0, le=1)]
    overhead: Annotated[float, Field(ge=0)]
    judgement_points: float
    copied_above_reference: Annotated[float, Field(ge=0, le=1)]


class ConsistencyParams(Section):
    photos: Annotated[int, Field(ge=0)]
    samples: Annotated[int, Field(ge=0, le=100)]
    temperature: Annotated[float, Field(gt=0, le=5)]


class EvaluateParams(Section):
    max_new_tokens: AtLeastOne
    batch_size: AtLeastOne
    few_shot_examples: Annotated[int, Field(ge=0, le=8)]
    calibrate: bool
    consistency: ConsistencyParams
    index: IndexWeights
    gates: GateParams


class ServeParams(Section):
    model_mode: Literal["base", "fine_tuned", "ab_test"]
    ab_test_split: Annotated[float, Field(ge=0, le=1)]
    experiment: str
    shadow_share: Annotated[float, Field(ge=0, le=1)]
    host: str
    port: Annotated[int, Field(ge=0, le=65535)]
    max_new_tokens: AtLeastOne
    batch_size: AtLeastOne
    constrained: bool
    request_timeout_seconds: Annotated[float, Field(gt=0)]
    max_waiting_requests: AtLeastOne
    max_queued_jobs: AtLeastOne
    max_attempts: AtLeastOne
    lease_seconds: Annotated[float, Field(ge=1)]
    drain_seconds: Annotated[float, Field(ge=0)]
    max_body_mb: AtLeastOne
    max_megapixels: AtLeastOne
    requests_per_minute: Annotated[int, Field(ge=0)]
    public_url: str
    trusted_proxies: list[str]
    default_advisor: str
    identify_clients: bool


class Profile(Section):
    name: Annotated[str, Field(min_length=1)]
    years: str
    specialty: str
    bio: str
    wikipedia_url: str
    focus_areas: dict[str, str]


class MachineParams(Section):
    feature_cache_gb: Annotated[float, Field(ge=0, le=1_000_000)]
    checkpoint_steps: AtLeastOne
    cache_limit_gb: Annotated[float, Field(ge=0, le=1_000_000)]
    num_processes: Annotated[int, Field(ge=1, le=64)]
    collective_timeout_seconds: Annotated[int, Field(ge=1, le=1_000_000)]
    tracker: Literal["none", "tensorboard", "wandb"]
    signers: str


class Params(Section):
    advisors: Annotated[list[AdvisorId], Field(min_length=1)]
    personas: dict[str, str]
    profiles: dict[str, Profile]
    application: ApplicationParams
    base: BaseParams
    image: ImageParams
    link: LinkParams
    prepare: PrepareParams
    train: TrainParams
    evaluate: EvaluateParams
    serve: ServeParams
    machine: MachineParams

    @model_validator(mode="after")
    def _check_consistency(self) -> Self:
        if len({advisor.lower() for advisor in self.advisors}) < len(self.advisors):
            raise ValueError(
                f"advisors has an advisor twice: {', '.join(self.advisors)} (capitals do not "
                "count: a Mac has one folder for both)"
            )
        empty = [name for name in self.advisors if not self.persona(name).strip()]
        if empty:
            raise ValueError(
                f"personas of {', '.join(empty)}: empty; write a few sentences on who that is "
                "(the system message in training and serving)"
            )
        if self.train.method == "orpo" and self.prepare.folds:
            raise ValueError(
                f"train.method is orpo and prepare.folds is {self.prepare.folds}: cross-validation "
                "trains without preference pairs; set prepare.folds to 0, or train.method to sft"
            )
        if self.image.min_pixels > self.image.max_pixels:
            raise ValueError("image.min_pixels is above image.max_pixels")
        for advisor, text in self.personas.items():
            if IMAGE_PLACEHOLDER in text or "<|" in text:
                raise ValueError(f"personas.{advisor} contains {IMAGE_PLACEHOLDER} or <|")
        return self

    def profile(self, advisor: str) -> Profile:
        """Return the advisor's profile; one made from the persona if params.yaml has none."""
        default = Profile(
            name=advisor.replace("_", " ").title(),
            years="",
            specialty="",
            bio=self.persona(advisor).strip(),
            wikipedia_url="",
            focus_areas={},
        )
        return self.profiles.get(advisor, default)

    def persona(self, advisor: str) -> str:
        """Return the advisor's text; raises ParamsError if params.yaml has none."""
        if advisor not in self.personas:
            advisors = ", ".join(sorted(self.personas))
            raise ParamsError(
                f"params.yaml: personas has no text for {advisor!r} (it has {advisors}); add one"
            )
        return self.personas[advisor]


def load_params(path: Path) -> Params:
    return load_yaml(path, Params)
