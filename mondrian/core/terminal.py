"""Progress bars, and tables for a terminal of 100 columns."""

from collections.abc import Sequence
from functools import partial
from io import StringIO

from rich import box
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

LINE_WIDTH = 100  # characters

# A bar that vanishes when the work is done; none where the output is not a terminal.
progress_bar = partial(tqdm, leave=False, disable=None)


def format_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return an aligned table; the first column is left-aligned, the others are numbers."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left", no_wrap=not i)
    for row in rows:
        table.add_row(*row)
    console = Console(file=StringIO(), width=LINE_WIDTH, color_system=None, highlight=False)
    with console.capture() as capture:
        console.print(table)
    return "\n".join(line.rstrip() for line in capture.get().splitlines() if line.strip())
