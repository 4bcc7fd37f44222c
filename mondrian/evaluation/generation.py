"""Batched generation of evaluation answers, with a resumable cache, and their report entries."""

import json
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from mondrian.core.errors import EvaluationError
from mondrian.core.files import append_line
from mondrian.core.gpu_errors import explain_gpu_errors
from mondrian.core.params import EvaluateParams
from mondrian.core.terminal import progress_bar
from mondrian.critique.parser import ParsedCritique, parse_critique
from mondrian.critique.schema import Critique, is_schema_valid, validate_critique
from mondrian.evaluation.arms import ARMS_WITHOUT_ADAPTER, WITH_GRAMMAR
from mondrian.evaluation.prompts import EvalPrompt
from mondrian.evaluation.text_metrics import hash_sentences
from mondrian.model import lora
from mondrian.model.batch_generator import SamplingParams
from mondrian.model.constrained import CritiqueGrammar, count_passes
from mondrian.model.generate import stream_generate
from mondrian.model.hardware import available_memory, bytes_per_sequence
from mondrian.model.provenance import describe_differences, hash_settings
from mondrian.model.vision_cache import FeatureCache
from mondrian.model.vlm import Generation, Vlm

_GENERATION = TypeAdapter(Generation)


class AnswerCache:
    """An append-only JSONL file of answers, from which an interrupted evaluation resumes.

    path      None keeps the answers in memory only
    identity  everything besides the prompt that decides an answer; answers with another identity
              are ignored
    """

    def __init__(self, path: Path | None, identity: dict[str, Any]) -> None:
        self.path = path
        self.answers: dict[str, Generation] = {}
        self._identity = identity
        self._digest = hash_settings(identity)
        self._digests_in_file: set[str] = set()
        self._other_identity: dict[str, Any] = {}  # of the latest evaluation with other settings
        if path is not None and path.is_file():
            self._read(path)

    def _read(self, path: Path) -> None:
        for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
            try:
                entry = json.loads(line)
                digest = entry["digest"]
                if "identity" in entry:
                    self._digests_in_file.add(digest)
                    if digest != self._digest:
                        self._other_identity = dict(entry["identity"])
                elif digest == self._digest:
                    self.answers[entry["key"]] = _GENERATION.validate_python(entry["answer"])
            except (ValueError, KeyError, TypeError, RecursionError):  # a line that was cut short
                continue

    def describe_other_run(self) -> str:
        """Return a line if nothing is resumed because the interrupted evaluation differs, or ""."""
        if self.answers or not self._other_identity:
            return ""
        differences = describe_differences(self._other_identity, self._identity)
        return (
            f"evaluation starts over: the interrupted one had other settings: {differences}; "
            f"restore them to resume it: {self.path} is kept until the report is written"
        )

    def key(self, title: str, index: int, prompt: Sequence[int], row_id: str) -> str:
        key_json = json.dumps([title, str(index), list(prompt), row_id])
        return sha256(key_json.encode()).hexdigest()[:32]

    def add(self, key: str, answer: Generation) -> None:
        """Store an answer; it is on disk when this returns."""
        self.answers[key] = answer
        if self.path is None:
            return
        if self._digest not in self._digests_in_file:
            self._append(self.path, {"identity": self._identity})
            self._digests_in_file.add(self._digest)
        self._append(self.path, {"key": key, "answer": asdict(answer)})

    def _append(self, path: Path, entry: dict[str, Any]) -> None:
        append_line(path, json.dumps({"digest": self._digest} | entry, ensure_ascii=False))


@dataclass(frozen=True)
class EvalContext:
    """What all answers of an evaluation share."""

    features: FeatureCache
    grammar: CritiqueGrammar
    params: EvaluateParams
    cache: AnswerCache


def generate_arm(context: EvalContext, arm: str, prompts: list[EvalPrompt]) -> list[Generation]:
    """Return the answers of an arm, whose adapter is attached."""
    vlm, params = context.features.vlm, context.params
    grammar = context.grammar if arm in WITH_GRAMMAR else None
    sampling_params = SamplingParams(params.max_new_tokens, params.batch_size, grammar)
    with lora.disable_lora(vlm.model) if arm in ARMS_WITHOUT_ADAPTER else nullcontext():
        return generate_answers(vlm, arm, prompts, sampling_params, context.cache)


def generate_constrained(
    context: EvalContext, arm: str, prompts: list[EvalPrompt], answers: Sequence[Generation]
) -> list[Generation]:
    """Return the answers of an arm with constrained decoding, whose raw answers are known.

    A raw answer that the grammar allows is what constrained decoding would generate: it is taken.
    """
    known = [_reuse_answer(context, answer) for answer in answers]
    missing = [prompt for prompt, answer in zip(prompts, known, strict=True) if answer is None]
    generated = iter(generate_arm(context, arm, missing) if missing else [])
    return [answer or next(generated) for answer in known]


def _reuse_answer(context: EvalContext, answer: Generation) -> Generation | None:
    """Return a raw answer as constrained decoding would generate it, or None if it would not."""
    passes = count_passes(context.grammar, answer.ids) if answer.ended else None
    return None if passes is None else replace(answer, passes=passes)


def generate_answers(
    vlm: Vlm,
    title: str,
    prompts: list[EvalPrompt],
    sampling_params: SamplingParams,
    cache: AnswerCache,
) -> list[Generation]:
    """Return the answers; those in the cache under the same title are not generated again.

    Raises EvaluationError if memory does not suffice.
    """
    keys = [cache.key(title, i, p.token_ids, p.row_id) for i, p in enumerate(prompts)]
    pending = [i for i, key in enumerate(keys) if key not in cache.answers]
    if pending:
        token_ids = [prompts[i].token_ids for i in pending]
        features = [prompts[i].features for i in pending]
        check_memory(vlm, token_ids, sampling_params)
        finished = len(prompts) - len(pending)
        bar = progress_bar(total=len(prompts), initial=finished, desc=title, unit="critique")
        memory_fix = (
            f"lower evaluate.batch_size ({sampling_params.max_sequences}) and run again, finished "
            "answers are kept"
        )
        with explain_gpu_errors(EvaluationError, memory_fix), bar:
            answers = stream_generate(vlm, token_ids, features, sampling_params, pending)
            for index, answer in answers:
                cache.add(keys[pending[index]], answer)
                bar.update()
    return [cache.answers[key] for key in keys]


def check_memory(vlm: Vlm, prompts: list[list[int]], sampling_params: SamplingParams) -> None:
    """Raise EvaluationError if the longest answers may not fit into the context or into memory."""
    max_new_tokens, longest = sampling_params.max_new_tokens, max(map(len, prompts))
    context = vlm.model.config.text_config.max_position_embeddings
    if longest + max_new_tokens > context:
        raise EvaluationError(
            f"a prompt of {longest} tokens and evaluate.max_new_tokens of {max_new_tokens} exceed "
            f"the base's context of {context} tokens; lower evaluate.max_new_tokens or "
            "evaluate.few_shot_examples, or shorten the persona"
        )
    sequences = min(sampling_params.max_sequences, len(prompts))
    sequence_bytes = bytes_per_sequence(vlm, max_new_tokens + longest)
    available = available_memory()
    if sequences * sequence_bytes > available:
        fitting = max(0, available) // sequence_bytes
        fix = f"lower evaluate.batch_size to {fitting}" if fitting else "close other programs"
        raise EvaluationError(
            f"{sequences} critiques at a time may take {sequences * sequence_bytes / 1e9:.1f} GB, "
            f"{max(0, available) / 1e9:.1f} GB are available; {fix}"
        )


def parse_answer(text: str) -> Critique | None:
    """Return the critique in an answer, repaired if needed, or None."""
    parsed = parse_critique(text)
    return parsed.critique if isinstance(parsed, ParsedCritique) else None


def build_answer_record(answer: Generation, train_sentences: set[str]) -> dict[str, Any]:
    """Return the report entry of an answer; `train_sentences` are hashes to detect copies."""
    compliant, fault = is_schema_valid(answer.text), None  # without repair
    scores: tuple[float, ...] | None = None
    if compliant:
        scores = validate_critique(answer.text).scores()
    elif isinstance(parsed := parse_critique(answer.text), ParsedCritique):
        scores = parsed.critique.scores()
    else:
        fault = f"{parsed.reason}: {parsed.detail}"
    return {
        "text": answer.text,
        "compliant": compliant,
        "scores": scores,
        "fault": fault,
        "copied": bool(hash_answer_sentences([answer.text]) & train_sentences),
        "tokens": answer.num_tokens,
        "passes": answer.passes,
        "seconds": round(answer.seconds, 4),
        "ended": answer.ended,
    }


def hash_answer_sentences(answers: Iterable[str]) -> set[str]:
    """Return hashes of the sentences in the free texts of answers."""
    return hash_sentences("\n".join(_free_texts(text)) for text in answers)


def _free_texts(text: str) -> list[str]:
    """Return the text fields of a critique; of any other answer the whole text."""
    critique = parse_answer(text)
    if critique is None:
        return [text]
    comments = [part for d in critique.dimensions for part in (d.comment, d.recommendation)]
    return [critique.image_description, *comments, critique.technical_notes]
