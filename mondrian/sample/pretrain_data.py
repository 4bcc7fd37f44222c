"""Pre-training batches of mondrian-tiny: images of scenes, their attributes, and target texts."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mondrian.critique.prompt import build_chat_messages, build_row_messages
from mondrian.critique.schema import serialize_critique
from mondrian.sample import base_files, corpus
from mondrian.sample.scene import draw_scene
from mondrian.sample.writing_style import WRITING_STYLES, write_critique

Ints = NDArray[np.int32]
Floats = NDArray[np.float32]
Images = NDArray[np.uint8]  # (images, height, width, 3)
PHASES = ("write", "refine", "survey")
HARD_ATTRIBUTES = ("depth", "balance")  # learned last: their words weigh more in the last phase
SURVEY_TOKENS = 60  # at the start of a critique: the description and the first score


@dataclass(frozen=True)
class PretrainSettings:
    seed: int = 1
    scenes: int = 12_000
    held_out: int = 400  # scenes of another seed, for measuring
    batch: int = 16  # scenes per rank and step
    warmup_steps: int = 600
    warmup_rate: float = 1.0e-3
    steps: int = 1100
    rate: float = 1.0e-3
    prose_every: int = 8  # steps; one of them trains on prose without an image
    mixed_styles_every: int = 4  # steps; one of them mixes the styles, as its prompt allows
    digit_weight: float = 4.0
    survey_weight: float = 3.0
    refine_steps: int = 500
    refine_rate: float = 1.0e-3
    refine_digit_weight: float = 10.0
    refine_survey_weight: float = 8.0
    tower_steps: int = 450
    tower_rate: float = 1.0e-3
    survey_steps: int = 285
    survey_rate: float = 1.0e-3
    hard_word_factor: float = 6.0  # on the survey weight, for the plain words of HARD_ATTRIBUTES
    critiques_every: int = 8  # steps; one of them trains on whole critiques, not only surveys


@dataclass(frozen=True)
class CritiqueBatch:
    """prefix (tokens,), rows (batch, image tokens + rest), targets and weights (batch, answer)."""

    images: Images
    attributes: Floats
    prefix: Ints
    input_ids: Ints
    answer_start: int  # index in a row
    targets: Ints
    weights: Floats


class BatchSampler:
    """Draws random batches; each rank draws its own."""

    def __init__(
        self, settings: PretrainSettings, images: Path, tokenizer: Any, rank: int, phase: str
    ) -> None:
        self.settings, self.tokenizer = settings, tokenizer
        is_first = phase == PHASES[0]
        self.digit_weight = settings.digit_weight if is_first else settings.refine_digit_weight
        self.survey_weight = settings.survey_weight if is_first else settings.refine_survey_weight
        self.images = np.load(images, mmap_mode="r")
        self.rng = np.random.default_rng((settings.seed, 2 + PHASES.index(phase), rank))
        self.mirrors = phase == "survey"
        words = WRITING_STYLES["plain"].words if phase == "survey" else {}
        hard_words = [f" {word}" for name in HARD_ATTRIBUTES for word in words.get(name, ())]
        self.hard_tokens = {tokenizer(word)["input_ids"][0] for word in hard_words}
        self.image_id = tokenizer.convert_tokens_to_ids("<|image_pad|>")
        self.digits = set(tokenizer.convert_tokens_to_ids(list("0123456789")))

    def draw_images(self) -> tuple[Images, list[int]]:
        """Return images and the indices of their scenes; no attribute depends on left and right."""
        indices = self.rng.integers(self.settings.scenes, size=self.settings.batch)
        images = self.images[indices]
        if self.mirrors:
            is_mirrored = self.rng.uniform(size=len(images)) < 0.5
            images[is_mirrored] = images[is_mirrored, :, ::-1]
        return images, [int(i) for i in indices]

    def attributes(self, indices: list[int]) -> Floats:
        return np.stack([draw_scene(self.settings.seed, i).attributes() for i in indices])

    def draw_critiques(
        self, mixed_styles: bool = False, max_tokens: int | None = None
    ) -> CritiqueBatch:
        """Return a batch of critiques of one persona; max_tokens cuts the answers."""
        images, indices = self.draw_images()
        persona = corpus.ANY_STYLE_PERSONA if mixed_styles else corpus.generate_persona(self.rng)
        text = self.tokenizer.apply_chat_template(
            build_chat_messages(build_row_messages(persona, ""))[:-1],
            tokenize=False,
            add_generation_prompt=True,
        )
        ids = self.tokenizer(text)["input_ids"]
        start = ids.index(self.image_id)
        prompt = [self.image_id] * base_files.NUM_IMAGE_TOKENS + ids[start + 1 :]
        answers = [self._tokenize_answer(i, mixed_styles)[:max_tokens] for i in indices]
        length = max(len(answer) for answer in answers)
        rows = np.zeros((len(answers), len(prompt) + length), np.int32)
        weights = np.zeros((len(answers), length), np.float32)
        for k, answer in enumerate(answers):
            rows[k, : len(prompt) + len(answer)] = prompt + answer
            weights[k, : len(answer)] = self._token_weights(answer)
        return CritiqueBatch(
            images,
            self.attributes(indices),
            prefix=np.array(ids[:start], np.int32),
            input_ids=rows,
            answer_start=len(prompt),
            targets=rows[:, len(prompt) :],
            weights=weights,
        )

    def draw_surveys(self) -> CritiqueBatch:
        """Return critiques up to the end of the survey: a fifth of the cost of whole ones."""
        return self.draw_critiques(max_tokens=SURVEY_TOKENS)

    def _tokenize_answer(self, index: int, mixed_styles: bool) -> list[int]:
        scene = draw_scene(self.settings.seed, index)
        if mixed_styles:
            critique = corpus.write_in_mixed_styles(scene, self.rng)
        else:
            critique = write_critique("plain", scene)
        return list(self.tokenizer(serialize_critique(critique) + "<|im_end|>")["input_ids"])

    def _token_weights(self, answer: list[int]) -> list[float]:
        """Return high weights for scores and the survey: they depend most on the image."""
        hard_weight = self.survey_weight * self.settings.hard_word_factor
        weights = [
            hard_weight if token in self.hard_tokens else self.survey_weight
            for token in answer[:SURVEY_TOKENS]
        ]
        weights += [1.0] * (len(answer) - len(weights))
        pairs = zip(answer, weights, strict=True)
        return [self.digit_weight if token in self.digits else weight for token, weight in pairs]

    def draw_prose(self) -> Ints:
        texts = [corpus.generate_prose(self.rng) for _ in range(self.settings.batch)]
        rows = [self.tokenizer(text)["input_ids"] for text in texts]
        length = min(len(row) for row in rows)
        return np.array([row[:length] for row in rows], np.int32)
