"""Lists for tests: entries and files in every layout, and the jobs that are read from them."""

import csv
import io
import json
from pathlib import Path
from typing import Any

from mondrian.critique.parser import ParsedCritique, parse_critique
from mondrian.critique.schema import Critique, serialize_critique
from mondrian.data.jobs import Job
from mondrian.data.sources import open_source

HEADINGS = {"score": "Score", "comment": "– comment", "recommendation": ": Recommendation"}


def read_jobs(path: Path, advisor: str = "ansel") -> list[Job]:
    with open_source(path) as source:
        return list(source.iter_finished(advisor))


def write_lines(path: Path, *entries: Any) -> Path:
    path.write_text("".join(f"{json.dumps(entry)}\n" for entry in entries))
    return path


def read_critique(job: Job) -> Critique:
    """Return the critique of a job; fails with the reason if it has none."""
    assert job.rejection is None, job.rejection
    result = parse_critique(job.text, "ansel", job.prompts())
    assert isinstance(result, ParsedCritique), result
    return result.critique


def make_chat_entries(photo: str, critique: Critique) -> dict[str, dict[str, Any]]:
    """Return one critique in the layouts of other trainers, by their names."""
    text, question = serialize_critique(critique), "Critique this photo."
    parts = [{"type": "image"}, {"type": "text", "text": question}]
    answer = {"role": "assistant", "content": text}
    url = {"type": "image_url", "image_url": {"url": photo}}
    return {
        "ms-swift": {
            "messages": [{"role": "user", "content": f"<image>{question}"}, answer],
            "images": [photo],
        },
        "ms-swift query": {"query": f"<image>{question}", "response": text, "images": [photo]},
        "ms-swift objects": {
            "messages": [{"role": "user", "content": f"<image>{question}"}, answer],
            "images": [{"bytes": None, "path": photo}],
        },
        "TRL": {
            "messages": [
                {"role": "user", "content": parts},
                {"role": "assistant", "content": [{"type": "text", "text": text}]},
            ],
            "images": [photo],
        },
        "TRL prompt": {
            "prompt": [{"role": "user", "content": parts}],
            "completion": [answer],
            "image": photo,
        },
        "LLaMA-Factory sharegpt": {
            "conversations": [
                {"from": "human", "value": f"<image>{question}"},
                {"from": "gpt", "value": text},
            ],
            "images": [photo],
            "system": "You are a critic.",
        },
        "LLaMA-Factory alpaca": {
            "instruction": f"<image>{question}",
            "input": "",
            "output": text,
            "images": [photo],
        },
        "LLaVA": {
            "id": "000001",
            "image": photo,
            "conversations": [
                {"from": "human", "value": f"<image>\n{question}"},
                {"from": "gpt", "value": text},
            ],
        },
        "mlx-vlm": {"question": question, "answer": text, "images": [photo]},
        "Qwen": {
            "messages": [
                {"role": "user", "content": [{"type": "image", "image": photo}, parts[1]]},
                answer,
            ],
        },
        "OpenAI": {
            "messages": [
                {"role": "system", "content": "You are a critic."},
                {"role": "user", "content": question},
                {"role": "user", "content": [url]},
                answer,
            ],
        },
    }


def make_row(photo: str, critique: Critique) -> dict[str, str]:
    """Return the row of a spreadsheet with a column for each part, as people name them."""
    row = {"Photo": photo, "Image Description": critique.image_description}
    for dimension in critique.dimensions:
        for key, heading in HEADINGS.items():
            value = str(getattr(dimension, key))
            name = dimension.name.replace("&", "and")
            row[f"{name} {heading}"] = value.replace(".", ",") if key == "score" else value
    row["Overall Score"] = f"{critique.overall_score:.1f}/10".replace(".", ",")
    row["Key strengths"] = "; ".join(critique.key_strengths)
    row["Priority Improvements"] = "\n".join(critique.priority_improvements)
    row["Technical notes"] = critique.technical_notes
    return row


def format_table(rows: list[dict[str, str]], separator: str) -> str:
    file = io.StringIO()
    table = csv.DictWriter(file, list(rows[0]), delimiter=separator, lineterminator="\r\n")
    table.writeheader()
    table.writerows(rows)
    return file.getvalue()
