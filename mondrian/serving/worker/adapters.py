"""The base and every adapter that serves, each a view of it, proved before it answers anybody."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import mlx.core as mx
from PIL import Image

from mondrian.core.errors import AdapterError, MondrianError
from mondrian.core.images import fit
from mondrian.critique.prompt import row_messages
from mondrian.critique.schema import schema_hash
from mondrian.model import adapter
from mondrian.model.batch_generator import Decoder, How, Row
from mondrian.model.compatibility import Terms, adapter_version, check_terms, terms_in
from mondrian.model.generate import prefix_of
from mondrian.model.hardware import memory_free
from mondrian.model.kv_cache import Kept
from mondrian.model.language import Features
from mondrian.model.vlm import Vlm, encode, next_logits, prompt_ids
from mondrian.serving.engines.ipc import BASE, Adopt, Adopted, Ask
from mondrian.serving.worker.lru_cache import Recent
from mondrian.serving.worker.model_views import adapter_bytes, merge, merged_bytes, view
from mondrian.serving.worker.multi_lora import Together, TogetherDecoder

NEAR = 1 << 30  # bytes of features, and of prompts, that are kept at hand
PHOTOGRAPHS = 32  # that are kept: one is asked about again soon, by the other arm, or never
PROMPTS = 64  # an advisor's, for each arm
SPARE = 2  # times what merging takes that has to be left


@dataclass(frozen=True, eq=False)
class Arm:
    """Who answers: the base, or one version of one adapter.

    folder  of the adapter; empty for the base
    vlm     that all arms which take steps together have in common
    shared  whether it is one of those
    raw     whether it is on the merger too, and wants what enters it
    """

    name: str
    version: str
    folder: str
    vlm: Vlm
    shared: bool
    raw: bool = False

    @property
    def group(self) -> int:
        """The same for arms that take steps together."""
        return id(self.vlm)


class Arms:
    """Arms by name; each may be replaced while rows of the one before it go on."""

    def __init__(self, vlm: Vlm, how: How, image: tuple[int, int]) -> None:
        self.how, self.base, self.together = how, vlm, Together(vlm)
        self._common = replace(vlm, model=self.together.model)
        self.at: dict[str, Arm] = {BASE: Arm(BASE, vlm.hash[:12], "", self._common, shared=True)}
        self._joined: set[Arm] = set()
        self._features: Recent[Features] = Recent(_features_size, NEAR, PHOTOGRAPHS)
        self._prompts: Recent[Kept] = Recent(_kept_size, NEAR, PROMPTS)
        picture = fit(Image.linear_gradient("L").convert("RGB"), *image)
        self._canary = encode(vlm, picture, raw=True)
        messages = row_messages("You are a critic.", "")[:-1]
        self._prompt = prompt_ids(vlm, messages, self._canary)
        self._base_says = next_logits(vlm, self._prompt, self._canary)
        mx.eval(self._base_says, vlm.model.parameters())

    def adopt(self, asked: Adopt) -> Adopted:
        """Load, prove and put in place; the arm of that name before it stays where this fails."""
        folder = Path(asked.folder)
        try:
            here = Terms(asked.advisor, asked.prompt, schema_hash(), asked.image)
            check_terms(terms_in(folder, here), here, str(folder))
            version = _version(folder)
            arm, merged, taken = self._proved(asked, folder, version)
            if _version(folder) != version:
                raise AdapterError(f"{folder} was being written while it was read; wait")
        except (MondrianError, OSError, RuntimeError, MemoryError) as error:
            told = " ".join(str(error).split())[:400] or type(error).__name__
            return Adopted(asked.name, asked.folder, "", fault=told)
        self.drop(asked.name)
        self.at[asked.name] = arm
        return Adopted(asked.name, asked.folder, version, merged=merged, bytes=taken)

    def _proved(self, asked: Adopt, folder: Path, version: str) -> tuple[Arm, bool, int]:
        """The arm, whether it is merged, and bytes that it takes."""
        model = view(self.base.model)
        layers = adapter.load(model, self.base.hash, folder)
        own = replace(self.base, model=model)
        raw = any(path.startswith("visual.") for path in layers)
        alone = Arm(asked.name, version, asked.folder, own, shared=False, raw=raw)
        adapter.prove_applied(self._says(alone), self._base_says, folder)
        whole = merged_bytes(layers)
        if asked.merge and whole and SPARE * whole < memory_free():
            merge(model)
            adapter.prove_applied(self._says(alone), self._base_says, folder)
            return alone, True, whole
        arm = Arm(asked.name, version, asked.folder, self._common, shared=True)
        if not self.together.join(arm, model):
            mx.eval(model.parameters())
            return alone, False, adapter_bytes(layers)
        try:
            adapter.prove_applied(self._says(arm), self._base_says, folder)
        except AdapterError:
            self.together.leave(arm)
            raise
        self._joined.add(arm)
        return arm, False, adapter_bytes(layers)

    def _says(self, arm: Arm) -> mx.array:
        """What an arm answers to the canary."""
        with self.turn(arm, len(self._prompt)):
            return next_logits(arm.vlm, self._prompt, self._canary)

    @contextmanager
    def turn(self, arm: Arm, tokens: int) -> Iterator[None]:
        """All tokens of what is computed in the context are one arm's."""
        with self.together.turn([(arm, tokens)] if arm.shared else []):
            yield

    def drop(self, name: str) -> None:
        """Forget an adapter and the prompts that it knew; rows of it may go on until `tidy`."""
        if self.at.pop(name, None):
            self._prompts.forget(lambda key: isinstance(key, tuple) and key[0] == name)

    def seen(self, ask: Ask) -> Features:
        """What the vision tower says of a photograph, made once."""
        raw = any(arm.raw for arm in self.at.values())
        key = (sha256(ask.pixels).digest(), ask.size, raw)

        def make() -> Features:
            return encode(self.base, Image.frombytes("RGB", ask.size, ask.pixels), raw)

        return self._features.get(key, make)[0]

    def prefix(self, arm: Arm, prompt: Sequence[int], image: int) -> tuple[Kept, bool]:
        """Keys and values of a prompt up to its photograph, by this adapter in this version."""
        ids = tuple(prompt[:image])
        key = (arm.name, arm.version, ids)

        def make() -> Kept:
            with self.turn(arm, len(ids)):
                return prefix_of(arm.vlm, ids)

        return self._prompts.get(key, make)

    def begin(self, arm: Arm, ask: Ask) -> tuple[Row, Kept, bool]:
        """A row for a question, what is known of its prompt, and whether that was known before."""
        seen = self.seen(ask)
        prompt = prompt_ids(arm.vlm, ask.messages, seen)
        image = prompt.index(arm.vlm.image_id)
        prefix, warm = self.prefix(arm, prompt, image)
        row = Row(prompt, seen, image, self.how, ask.id)
        row.arm = arm
        return row, prefix, warm

    def decoder(self, arm: Arm, most: int) -> Decoder:
        """What an arm's rows take steps in, with those of other arms where it is shared."""
        if arm.shared:
            return TogetherDecoder(arm.vlm, most, self.together)
        return Decoder(arm.vlm, most)

    def tidy(self, used: Collection[Arm]) -> None:
        """Let the weights of arms go that serve no more and have no row left."""
        for arm in [arm for arm in self._joined if arm not in used]:
            if self.at.get(arm.name) is not arm:
                self.together.leave(arm)
                self._joined.discard(arm)


def _version(folder: Path) -> str:
    missing = [n for n in (adapter.CONFIG, adapter.WEIGHTS) if not (folder / n).is_file()]
    if missing:
        raise AdapterError(f"{folder} has no {missing[0]}; copy it again, or train: dvc repro")
    return adapter_version(folder)


def _features_size(seen: Features) -> int:
    raw = 0 if seen.raw is None else seen.raw.nbytes
    return int(seen.merged.nbytes + raw + sum(level.nbytes for level in seen.deep))


def _kept_size(kept: Kept) -> int:
    return sum(keys.nbytes + values.nbytes for keys, values in kept)
