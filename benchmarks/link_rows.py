"""Time and memory of link against rows: python benchmarks/link_rows.py [10000 100000 1000000]

Each database holds every kind of text of the sample, critiques of a realistic length among them,
and photographs for 1,000 of its rows. link runs as a process of its own; its peak memory is that of
it and of its worker processes together.
"""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from mondrian.critique.schema import Critique, serialize_critique
from mondrian.sample.corruptions import CORRUPTIONS, build_example_prompt
from mondrian.sample.scene import draw_scene, render
from mondrian.sample.writing_style import write_critique

ROOT = Path(__file__).parents[1]
PHOTOS = 1000
MORE = " The trees stand in a row of late light and the river leads into the far hills, where"
MORE += " a thin mist divides one ridge from the next; nothing disturbs the eye on its way."


def long_critique(i: int) -> Critique:
    """A critique of about 4,400 characters, the median of real ones."""
    plain = write_critique("ansel", draw_scene(1, i))
    longer = tuple(
        d.model_copy(
            update={
                "comment": d.comment + MORE * 2 + f" {i}",
                "recommendation": d.recommendation + MORE[:150] + f" {d.name} {i}",
            }
        )
        for d in plain.dimensions
    )
    return plain.model_copy(update={"dimensions": longer})


def rows(count: int) -> Iterator[tuple[str, ...]]:
    """Half the rows are clean, the other half go through every kind of mess."""
    clean = [serialize_critique(long_critique(i)) for i in range(400)]
    messy = [mess.make_text(long_critique(i)) for i, mess in enumerate(CORRUPTIONS * 8)]
    prompt = build_example_prompt()
    for i in range(count):
        with_photo = i % (count // PHOTOS) == 0
        text = messy[i % len(messy)] if i % 2 and not with_photo else clean[i % len(clean)]
        text = text.replace("I stand", f"In {i} I stand", 1)
        name = f"{i // (count // PHOTOS)}.jpg" if with_photo else f"photo-{i:08x}.jpg"
        yield f"job-{i}", name, "ansel", "completed", text, prompt, str(1_700_000_000 + i)


def write_database(path: Path, count: int) -> None:
    with sqlite3.connect(path) as connection:
        columns = "id PRIMARY KEY, filename, advisor, status, analysis_markdown, prompt, created_at"
        connection.execute(f"CREATE TABLE jobs ({columns})")
        connection.executemany("INSERT INTO jobs VALUES (?, ?, ?, ?, ?, ?, ?)", rows(count))
    connection.close()


def memory_of(process: int) -> int:
    """Resident bytes of a process and of all below it, shared pages counted once (Linux: PSS)."""
    total, todo = 0, [process]
    while todo:
        one = todo.pop()
        try:
            lines = Path(f"/proc/{one}/smaps_rollup").read_text().splitlines()
            total += 1024 * sum(int(n.split()[1]) for n in lines if n.startswith("Pss:"))
            todo += map(int, Path(f"/proc/{one}/task/{one}/children").read_text().split())
        except (OSError, ValueError):
            continue
    return total


def measure(command: list[str]) -> tuple[float, float, str]:
    """Seconds, peak GB and the output of a command."""
    started, peak = time.perf_counter(), 0
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env, cwd=ROOT
    ) as process:
        done = threading.Event()

        def watch() -> None:
            nonlocal peak
            while not done.wait(0.2):
                peak = max(peak, memory_of(process.pid))

        watcher = threading.Thread(target=watch)
        watcher.start()
        output, _ = process.communicate()
        seconds = time.perf_counter() - started
        done.set()
        watcher.join()
    if process.returncode:
        sys.exit(f"link failed: {output}")
    return seconds, peak / 1e9, output


def main() -> None:
    counts = [int(told) for told in sys.argv[1:]] or [10_000, 100_000, 1_000_000]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "source").mkdir()
        for i in range(PHOTOS):
            render(draw_scene(1, i), 320, 256).save(folder / "source" / f"{i}.jpg")
        print(f"{'rows':>9} {'database GB':>12} {'seconds':>8} {'us/row':>7} {'peak GB':>8} linked")
        for count in counts:
            path = folder / "mondrian.db"
            write_database(path, count)
            out, cache = folder / "out", folder / f"cache-{count}"
            flags = {"--db_path": path, "--output_dir": out, "--cache_dir": cache}
            told = [str(part) for pair in flags.items() for part in pair]
            command = [sys.executable, str(ROOT / "stages/link.py"), "--advisor", "ansel", *told]
            seconds, peak, _ = measure(command)
            linked = json.loads((out / "link.json").read_text())["linked"]
            size = path.stat().st_size / 1e9
            print(
                f"{count:>9,} {size:>12.2f} {seconds:>8.1f} {1e6 * seconds / count:>7.0f} "
                f"{peak:>8.2f} {linked:>6}",
                flush=True,
            )
            path.unlink()


if __name__ == "__main__":
    main()
