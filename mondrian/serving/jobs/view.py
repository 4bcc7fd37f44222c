"""A row of the jobs as a person reads it: in words, its critiques parsed, and who gave them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mondrian.core.params import Params
from mondrian.critique import radar
from mondrian.critique.rejection import Rejected
from mondrian.critique.schema import Critique, canonical, parse
from mondrian.serving.feedback.merge import changes
from mondrian.serving.http.responses import outputs
from mondrian.serving.jobs.critique_runner import understood
from mondrian.storage.jobs import DONE, LIVE, Row

_MODES = {
    "": "as the service is set", "baseline": "as the service is set", "base": "the base",
    "lora": "the fine-tuned adapter", "fine_tuned": "the fine-tuned adapter", "ab_test": "a draw",
}  # fmt: skip
_ARMS = {"base": "base", "fine_tuned": "fine-tuned"}
_DRAWN = "ab_test_"
_UUID = 37  # characters that a kept photograph's name begins with: uuid and _


@dataclass(frozen=True)
class Said:
    """One advisor's part of a job; `critique` is None where none is to be found in `text`.

    kept  what a person said of it, as `feedback.newest` gives it
    """

    advisor: str
    name: str
    text: str
    critique: Critique | None
    kept: Row | None = None

    @property
    def served(self) -> str | None:
        """The critique as feedback remembers it."""
        return canonical(self.critique) if self.critique else None

    @property
    def corrected(self) -> Critique | None:
        """What a person made of it."""
        text = (self.kept or {}).get("critique")
        return parse(text) if text else None

    @property
    def opinion(self) -> str:
        """What a person said of it, in words; empty where nobody did."""
        said = self.kept or {}
        thumbs = {1: "thumbs up", -1: "thumbs down"}.get(said.get("thumbs") or 0, "")
        if said.get("note"):
            thumbs = f"{thumbs or 'a note'}{' with a note' if thumbs else ''}"
        return "; ".join(filter(None, (thumbs, self._verdict(said))))

    def _verdict(self, said: Row) -> str:
        by = f" by {said['who']}" if said.get("who") else ""
        if self.corrected and self.critique:
            scores, texts = changes(self.critique, self.corrected)
            told = (_counted(scores, "score"), _counted(texts, "text"))
            return f"corrected{by}, {' and '.join(filter(None, told))} changed; for training"
        if self.corrected:
            return f"written anew{by}; for training"
        return f"taken{by} as it stands; for training" if said.get("verdict") else ""


@dataclass(frozen=True)
class Reading:
    """A job as pages show it; `said` is empty until it has ended well."""

    row: Row
    photo: str
    names: str
    asked: str
    arm: str
    drawn: bool
    said: tuple[Said, ...] = ()

    @property
    def live(self) -> bool:
        """Whether it is still to come."""
        return self.row["status"] in LIVE

    @property
    def done(self) -> bool:
        """Whether it ended well."""
        return self.row["status"] in DONE

    @property
    def ours(self) -> bool:
        """Whether it can be begun again here."""
        return self.row["kind"] in ("upload", "shadow")

    @property
    def grades(self) -> list[str]:
        """The overall grade of each advisor that gave one."""
        return [f"{one.critique.overall_score:g}" for one in self.said if one.critique]

    @property
    def tokens_per_second(self) -> float | None:
        """How quickly it was written."""
        tokens, seconds = self.row["tokens"], self.row["decode_seconds"]
        return tokens / seconds if tokens and seconds else None


def read(row: Row, params: Params, said: Mapping[tuple[str, str], Row] | None = None) -> Reading:
    """A row with its critiques, and what `feedback.newest` knows of them."""
    advisors = [name.strip() for name in (row["advisor"] or "").split(",") if name.strip()]
    names = {advisor: _name(advisor, params) for advisor in advisors}
    mode, used = row["mode"] or "", row["model_used"] or ""
    told = Reading(
        row, _photo(row["filename"] or ""), " and ".join(names.values()) or "nobody",
        _MODES.get(mode, mode), _ARMS.get(used.removeprefix(_DRAWN), used),
        used.startswith(_DRAWN),
    )  # fmt: skip
    if not told.done:
        return told
    texts = _texts(row, advisors)
    parts = (Said(a, names[a], text, _critique(text, a)) for a, text in texts.items())
    return replace(told, said=tuple(_with_kept(one, row, said or {}) for one in parts))


def shapes(one: Said, others: list[Reading], drawn: Reading) -> list[tuple[str, str]]:
    """Polygons of a radar: the other arm thinly, then this critique, then what was made of it."""
    beside = [
        twin.critique for other in others if other is not drawn
        for twin in other.said if twin.advisor == one.advisor and twin.critique
    ]  # fmt: skip
    own = [one.critique] if one.critique else []
    new = [one.corrected] if one.corrected else []
    told = [(color, critique) for color, some in (("soft", beside), ("one", own), ("two", new))
            for critique in some]  # fmt: skip
    return [(color, radar.polygon(critique.scores())) for color, critique in told]


def _with_kept(one: Said, row: Row, said: Mapping[tuple[str, str], Row]) -> Said:
    """With what was said of it, as long as the text is the one it was said of."""
    kept = said.get((row["id"], one.advisor))
    if kept and kept["original"] == one.served:
        return replace(one, kept=kept)
    alone = "," not in (row["advisor"] or "")  # thumbs from before there was a table for them
    return replace(one, kept={name: row[name] for name in ("thumbs", "note")}) if alone else one


def _counted(number: int, word: str) -> str:
    return f"{number} {word}{'s' * (number != 1)}" if number else ""


def _texts(row: Row, advisors: list[str]) -> dict[str, str]:
    """What was said in each advisor's name, in whichever form it was stored."""
    told = outputs(row)
    whole = told.get("response") or row["analysis_markdown"] or ""
    return {advisor: _text(told.get(advisor) or whole) for advisor in advisors}


def _text(told: Any) -> str:
    return told if isinstance(told, str) else json.dumps(told, ensure_ascii=False)


def _critique(text: str, advisor: str) -> Critique | None:
    found = understood(text, advisor)
    return None if isinstance(found, Rejected) else found[0]


def _name(advisor: str, params: Params) -> str:
    known = advisor in params.advisors
    return params.profile(advisor).name if known else advisor.replace("_", " ").title()


def _photo(filename: str) -> str:
    """The name that a photograph came with, as far as it was kept."""
    stem = Path(filename).stem
    return (stem[_UUID:] if stem[_UUID - 1 : _UUID] == "_" else stem) or "photograph"
