"""Measure time and memory of link by rows, of a database or of a list:
python benchmarks/link_rows.py [--layout db jsonl json csv] [--rows 10000 100000 1000000]

Each source has every kind of text of the sample, with critiques of realistic length, and photos
for --photos of its rows (1,000). link runs as a separate process; its peak memory includes its
workers.
"""

import argparse
import csv
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

from mondrian.critique.schema import Critique, serialize_critique
from mondrian.sample.corruptions import CORRUPTIONS, build_example_prompt
from mondrian.sample.scene import draw_scene, render
from mondrian.sample.writing_style import write_critique

ROOT = Path(__file__).parents[1]
FILLER = (
    " The trees stand in a row of late light and the river leads into the far hills, where"
    " a thin mist divides one ridge from the next; nothing disturbs the eye on its way."
)


def long_critique(i: int) -> Critique:
    """Return a critique of about 4,400 characters, the median of real ones."""
    critique = write_critique("ansel", draw_scene(1, i))
    dimensions = tuple(
        d.model_copy(
            update={
                "comment": d.comment + FILLER * 2 + f" {i}",
                "recommendation": d.recommendation + FILLER[:150] + f" {d.name} {i}",
            }
        )
        for d in critique.dimensions
    )
    return critique.model_copy(update={"dimensions": dimensions})


def make_jobs(count: int, num_photos: int) -> Iterator[tuple[str, ...]]:
    """Yield table rows: every second one is clean, the others cycle through all corruptions."""
    clean = [serialize_critique(long_critique(i)) for i in range(400)]
    corrupted = [c.make_text(long_critique(i)) for i, c in enumerate(CORRUPTIONS * 8)]
    prompt = build_example_prompt()
    for i in range(count):
        photo, remainder = divmod(i, count // num_photos)
        has_photo = remainder == 0
        texts = corrupted if i % 2 and not has_photo else clean
        text = texts[i % len(texts)].replace("I stand", f"In {i} I stand", 1)
        name = f"{photo}.jpg" if has_photo else f"photo-{i:08x}.jpg"
        yield f"job-{i}", name, "ansel", "completed", text, prompt, str(1_700_000_000 + i)


def write_database(path: Path, rows: Iterable[tuple[str, ...]]) -> None:
    with sqlite3.connect(path) as connection:
        columns = "id PRIMARY KEY, filename, advisor, status, analysis_markdown, prompt, created_at"
        connection.execute(f"CREATE TABLE jobs ({columns})")
        connection.executemany("INSERT INTO jobs VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
    connection.close()


def write_list(path: Path, jobs: Iterable[tuple[str, ...]]) -> None:
    """Write a list: chat rows in JSON, or a table with the critique in one column."""
    keys = ("id", "photo", "advisor", "critique", "prompt", "created_at")
    rows = ((name, *row[:2], *row[3:]) for name, *row in jobs)
    with path.open("w", encoding="utf-8", newline="") as file:
        if path.suffix == ".csv":
            csv.writer(file, delimiter=";").writerows(chain([keys], rows))
            return
        file.write("[" if path.suffix == ".json" else "")
        for i, row in enumerate(rows):
            entry = make_chat_row(dict(zip(keys, row, strict=True)))
            file.write(",\n" if i and path.suffix == ".json" else "")
            file.write(json.dumps(entry) + ("\n" if path.suffix == ".jsonl" else ""))
        file.write("]" if path.suffix == ".json" else "")


def make_chat_row(row: dict[str, str]) -> dict[str, object]:
    return {
        "id": row["id"],
        "advisor": row["advisor"],
        "created_at": row["created_at"],
        "images": [row["photo"]],
        "messages": [
            {"role": "system", "content": row["prompt"]},
            {"role": "user", "content": "<image>Critique this photograph."},
            {"role": "assistant", "content": row["critique"]},
        ],
    }


def resident_bytes(pid: int) -> int:
    """Return the memory of a process and its descendants, shared pages counted once (Linux PSS)."""
    total, pids = 0, [pid]
    while pids:
        pid = pids.pop()
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            total += 1024 * sum(int(n.split()[1]) for n in lines if n.startswith("Pss:"))
            pids += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        except (OSError, ValueError):
            continue
    return total


def measure(command: list[str]) -> tuple[float, float]:
    """Return the seconds and the peak memory (10^9 bytes) of a command."""
    started, peak = time.perf_counter(), 0
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env, cwd=ROOT
    ) as process:
        done = threading.Event()

        def sample_memory() -> None:
            nonlocal peak
            while not done.wait(0.2):
                peak = max(peak, resident_bytes(process.pid))

        sampler = threading.Thread(target=sample_memory)
        sampler.start()
        output, _ = process.communicate()
        seconds = time.perf_counter() - started
        done.set()
        sampler.join()
    if process.returncode:
        sys.exit(f"link failed: {output}")
    return seconds, peak / 1e9


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure time and memory of link by rows.")
    layouts = ("db", "jsonl", "json", "csv")
    parser.add_argument("--layout", nargs="+", choices=layouts, default=["db"])
    parser.add_argument("--rows", nargs="+", type=int, default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--photos", type=int, default=1000, help="rows with a photo")
    return parser.parse_args()


def measure_link(folder: Path, layout: str, count: int, num_photos: int) -> str:
    """Write a source, link it and return a line of the table."""
    source, output = folder / f"mondrian.{layout}", folder / "out"
    (write_database if layout == "db" else write_list)(source, make_jobs(count, num_photos))
    command = [sys.executable, str(ROOT / "stages/link.py"), "--advisor", "ansel"]
    command += ["--db_path", str(source), "--source_dir", str(folder / "source")]
    command += ["--output_dir", str(output), "--cache_dir", str(folder / f"cache-{layout}-{count}")]
    seconds, peak = measure(command)
    linked = json.loads((output / "link.json").read_text())["linked"]
    size = source.stat().st_size / 1e9
    source.unlink()
    return (
        f"{layout:>6} {count:>9,} {size:>8.2f} {seconds:>8.1f} {1e6 * seconds / count:>7.0f} "
        f"{peak:>8.2f} {linked:>6}"
    )


def main() -> None:
    args = parse_args()
    with tempfile.TemporaryDirectory() as tmp_dir:
        folder = Path(tmp_dir)
        (folder / "source").mkdir()
        for i in range(args.photos):
            render(draw_scene(1, i), 320, 256).save(folder / "source" / f"{i}.jpg")
        print("layout      rows       GB  seconds  us/row  peak GB linked")
        for layout in args.layout:
            for count in args.rows:
                print(measure_link(folder, layout, count, args.photos), flush=True)


if __name__ == "__main__":
    main()
