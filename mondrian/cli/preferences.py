"""mondrian preferences: export preference pairs from the service's database and photos."""

import argparse
import sys
from collections import Counter
from pathlib import Path

from mondrian.cli.parser import add_params, command_parser, path_name
from mondrian.core.advisor_id import advisor_id
from mondrian.core.errors import DataError
from mondrian.core.params import load_params
from mondrian.data.critique_lookup import ApplicationFolders
from mondrian.data.preference_export import PairSources, collect_pairs, write_pairs
from mondrian.data.rated_critiques import load_rated_critiques

_REMOVED = {
    "--format": "rows have one form now, TRL's: delete the flag",
    "--exclude_photos_of": "give the folder of prepared rows instead: --prepared_dir "
    "data/prepared/<advisor>",
}

_NO_PAIRS = "a pair needs a correction, a blind vote, or a better and a worse rating of one photo"


def parse_args(argv: list[str]) -> argparse.Namespace:
    parser = command_parser(
        "preferences",
        "mondrian preferences --db data/service/mondrian.db --advisor ansel \\\n"
        "  --output_dir /tmp/pairs --prepared_dir data/prepared/ansel",
        "Pairs are of one photo, from ratings, corrections and blind votes in the database.",
    )
    add = parser.add_argument
    add("--db", required=True, help="the service's database: SQLite file, or postgresql://…")
    add("--advisor", type=advisor_id, required=True)
    add("--output_dir", type=path_name, required=True)
    add("--data", type=path_name, help="the service's --data; default: application.source_dir")
    prepared_help = "rows of `prepare`: pairs of photos like those of val and test are left out"
    add("--prepared_dir", type=path_name, help=prepared_help)
    add("--cache_dir", type=path_name, default=Path(".cache"), help="cached photo hashes")
    add_params(parser)
    for flag in (arg.partition("=")[0] for arg in argv):
        if flag in _REMOVED:
            parser.error(f"{flag} was removed; {_REMOVED[flag]}")
    return parser.parse_args(argv)


def main(argv: list[str]) -> None:
    args = parse_args(argv)
    params = load_params(args.params)
    application, counts = params.application, Counter[str]()
    source = args.data or Path(application.source_dir)
    folders = ApplicationFolders(source, Path(application.analysis_dir), Path(application.html_dir))
    sources = PairSources(
        args.advisor,
        folders,
        args.prepared_dir,
        args.cache_dir,
        params.prepare.session_minutes,
        held_out_parts=("val", "test"),
    )
    critiques = load_rated_critiques(args.db, args.advisor, folders, counts)
    pair_set = collect_pairs(critiques, sources, params.image, counts)
    if not pair_set.pairs:
        raise DataError(f"{pair_set.summary()}; {_NO_PAIRS}")
    persona = params.persona(args.advisor)
    path = write_pairs(pair_set, persona, params.image, args.output_dir)
    hint = "" if pair_set.has_split else "  no photo was held out; see --prepared_dir\n"
    sys.stdout.write(f"{pair_set.summary()}\n{hint}  written to {path}\n")
