"""Answers of an evaluation as they come: an interrupted one goes on where it stopped."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

from mondrian.model.vlm import Generation


class AnswerCache:
    """A file of lines, one an answer; `identity` is all that decides what an answer is."""

    def __init__(self, path: Path | None, identity: dict[str, Any]) -> None:
        self.path = path
        self._identity = sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
        self._known: dict[str, Generation] = {}
        if path is not None and path.is_file():
            self._read(path)

    def _read(self, path: Path) -> None:
        """What it holds of this evaluation; a line that was cut short counts as none."""
        for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
            try:
                entry = json.loads(line)
                if entry["identity"] == self._identity:
                    answer = entry["answer"]
                    ids = tuple(map(int, answer.pop("ids")))
                    cached_answer = Generation(
                        str(answer["text"]),
                        ids,
                        float(answer["seconds"]),
                        bool(answer["ended"]),
                        int(answer["passes"]),
                    )
                    self._known[entry["key"]] = cached_answer
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                continue

    def key(self, arm: str, row: str, prompt: Sequence[int], photo_row_id: str) -> str:
        """Of one question."""
        key_json = json.dumps([arm, row, list(prompt), photo_row_id])
        return sha256(key_json.encode()).hexdigest()[:32]

    def get(self, key: str) -> Generation | None:
        """The answer, where it was given before."""
        return self._known.get(key)

    def add(self, answers: dict[str, Generation]) -> None:
        """Keep answers, on the disk before this returns."""
        self._known |= answers
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            for key, answer in answers.items():
                entry = {"identity": self._identity, "key": key, "answer": asdict(answer)}
                file.write(json.dumps(entry, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())


def delete_cache_file(path: Path) -> None:
    """The evaluation is done and written."""
    path.unlink(missing_ok=True)
