"""What mondrian-tiny is shown in pre-training: pictures of scenes, their truth, and what to say."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mondrian.critique.prompt import chat_messages, row_messages
from mondrian.critique.schema import serialize_critique
from mondrian.sample import base_files, corpus
from mondrian.sample.scene import draw_scene
from mondrian.sample.writing_style import write_critique

Ints = NDArray[np.int32]
Floats = NDArray[np.float32]
Pictures = NDArray[np.uint8]  # (pictures, height, width, 3)


@dataclass(frozen=True)
class PretrainSettings:
    seed: int = 1
    scenes: int = 12_000
    held_out: int = 400  # scenes of another seed, to measure by
    batch: int = 16  # scenes a rank and step
    warmup_steps: int = 600
    warmup_rate: float = 1.0e-3
    steps: int = 1100
    rate: float = 1.0e-3
    prose_every: int = 8  # one step of so many is prose without a picture
    any_voice_every: int = 4  # one step of so many mixes the voices, where the prompt allows it
    digit_weight: float = 4.0
    survey_weight: float = 3.0
    refine_steps: int = 500
    refine_rate: float = 1.0e-3
    refine_digit_weight: float = 10.0
    refine_survey_weight: float = 8.0


@dataclass(frozen=True)
class CritiqueBatch:
    """prefix (tokens,), rows (batch, image tokens + rest), targets and weights (batch, answer)."""

    pictures: Pictures
    truth: Floats
    prefix: Ints
    input_ids: Ints
    answer_start: int  # where the answer begins in a row
    targets: Ints
    weights: Floats


class BatchSampler:
    """Draws batches; each rank draws its own."""

    def __init__(
        self, settings: PretrainSettings, pictures: Path, tokenizer: Any, rank: int, phase: str
    ) -> None:
        self.settings, self.tokenizer = settings, tokenizer
        first = phase == "write"
        self.digit_weight = settings.digit_weight if first else settings.refine_digit_weight
        self.survey_weight = settings.survey_weight if first else settings.refine_survey_weight
        self.pictures = np.load(pictures, mmap_mode="r")
        self.rng = np.random.default_rng((settings.seed, 2 if first else 3, rank))
        self.image_id = tokenizer.convert_tokens_to_ids("<|image_pad|>")
        self.digits = set(tokenizer.convert_tokens_to_ids(list("0123456789")))

    def draw(self) -> tuple[Pictures, list[int]]:
        picked = self.rng.integers(self.settings.scenes, size=self.settings.batch)
        return self.pictures[picked], [int(i) for i in picked]

    def truth(self, picked: list[int]) -> Floats:
        return np.stack([draw_scene(self.settings.seed, i).attributes() for i in picked])

    def draw_critiques(self, any_voice: bool = False) -> CritiqueBatch:
        pictures, picked = self.draw()
        persona = corpus.ANY_STYLE_PERSONA if any_voice else corpus.generate_persona(self.rng)
        messages = chat_messages(row_messages(persona, ""))[:-1]
        text = self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
        ids = self.tokenizer(text)["input_ids"]
        start = ids.index(self.image_id)
        head = [self.image_id] * base_files.NUM_IMAGE_TOKENS + ids[start + 1 :]
        answers = [self._answer(i, any_voice) for i in picked]
        longest = max(len(a) for a in answers)
        rows = np.zeros((len(answers), len(head) + longest), np.int32)
        weight = np.zeros((len(answers), longest), np.float32)
        for k, answer in enumerate(answers):
            rows[k] = head + answer + [0] * (longest - len(answer))
            weight[k, : len(answer)] = self._weights(answer)
        return CritiqueBatch(
            pictures,
            self.truth(picked),
            np.array(ids[:start], np.int32),
            rows,
            len(head),
            rows[:, len(head) :],
            weight,
        )

    def _answer(self, index: int, any_voice: bool) -> list[int]:
        scene = draw_scene(self.settings.seed, index)
        critique = (
            corpus.write_in_mixed_styles(scene, self.rng)
            if any_voice
            else write_critique("plain", scene)
        )
        text = serialize_critique(critique)
        return list(self.tokenizer(text + "<|im_end|>")["input_ids"])

    def _weights(self, answer: list[int]) -> list[float]:
        """Scores and the survey that opens a critique say most of what was seen."""
        return [
            self.digit_weight if token in self.digits else self.survey_weight if k < 60 else 1.0
            for k, token in enumerate(answer)
        ]

    def draw_prose(self) -> Ints:
        texts = [corpus.generate_prose(self.rng) for _ in range(self.settings.batch)]
        rows = [self.tokenizer(text)["input_ids"] for text in texts]
        shortest = min(len(row) for row in rows)
        return np.array([row[:shortest] for row in rows], np.int32)
