"""mondrian preferences: export pairs for DPO or ORPO from the service's database and photos."""

import argparse
import sys
from collections import Counter
from pathlib import Path

from mondrian.cli.parser import add_params, command_parser
from mondrian.core.advisor_id import advisor_id
from mondrian.core.errors import DataError
from mondrian.core.params import load_params
from mondrian.critique.rows import read_rows
from mondrian.data.preferences import (
    EXPORT_FORMATS,
    ExportSettings,
    find_held_out_duplicates,
    find_pair_photos,
    find_pairs,
    format_preference_summary,
    select_usable_pairs,
    write_pairs,
)
from mondrian.serving.feedback.export import load_rated_critiques


def parse_args(argv: list[str]) -> argparse.Namespace:
    parser = command_parser(
        "preferences",
        "mondrian preferences --db data/service/mondrian.db --advisor ansel \\\n"
        "  --output_dir /tmp/pairs",
        "Pairs are of one photo, from ratings, corrections and blind votes in the database.",
    )
    add = parser.add_argument
    add("--db", required=True, help="the service's database: SQLite file, or postgresql://…")
    add("--advisor", type=advisor_id, required=True)
    add("--output_dir", type=Path, required=True)
    add("--data", type=Path, help="the service's --data; default: application.source_dir")
    add("--format", choices=tuple(EXPORT_FORMATS), default="trl", help="layout of the rows")
    exclude_help = "val and test rows: pairs of their photos, and of similar ones, are left out"
    add("--exclude_photos_of", type=Path, nargs="+", default=[], metavar="ROWS", help=exclude_help)
    add("--cache_dir", type=Path, default=Path(".cache"), help="cached photo hashes")
    add_params(parser)
    return parser.parse_args(argv)


def main(argv: list[str]) -> None:
    args = parse_args(argv)
    params = load_params(args.params)
    persona, counts = params.persona(args.advisor), Counter[str]()
    pairs, pair_counts = find_pairs(load_rated_critiques(args.db, args.advisor, params, counts))
    photos = find_pair_photos(
        pairs, args.data or Path(params.application.source_dir), args.cache_dir
    )
    held_out_photos = [
        Path(row.images[0]) for rows in args.exclude_photos_of for row in read_rows(rows)
    ]
    held_out = find_held_out_duplicates(photos, held_out_photos, params.image, args.cache_dir)
    usable_pairs = select_usable_pairs(pairs, photos, held_out, counts)
    summary_text = format_preference_summary(
        args.advisor, usable_pairs, counts + Counter(pair_counts), bool(args.exclude_photos_of)
    )
    if not usable_pairs:
        raise DataError(summary_text)
    settings = ExportSettings(args.advisor, persona, params.image, args.format)
    path = write_pairs(usable_pairs, photos, settings, args.output_dir)
    sys.stdout.write(f"{summary_text}\n  written to {path}\n")
