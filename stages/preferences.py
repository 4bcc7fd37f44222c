"""preferences: database, photos, data/prepared/<advisor>/ -> data/preferences/<advisor>/

Also metrics/<advisor>/preferences.json. Without train.method orpo there are no pairs. Database and
folders are those of `application` in params.yaml: no shell reads them, as in link.
"""

import argparse
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from mondrian.core.advisor_id import advisor_id
from mondrian.core.errors import run_command
from mondrian.core.files import write_json
from mondrian.core.params import ApplicationParams, load_params
from mondrian.data.critique_lookup import ApplicationFolders
from mondrian.data.lists.list_format import is_database
from mondrian.data.preference_export import PairSources, collect_pairs, write_pairs
from mondrian.data.preferences import RatedCritique
from mondrian.data.rated_critiques import NoFeedbackError, load_rated_critiques
from mondrian.data.sources import locate_source


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Collect preference pairs from feedback.")
    add = parser.add_argument
    add("--advisor", type=advisor_id, required=True)
    add("--prepared_dir", type=Path, required=True, help="rows of `prepare`")
    add("--output_dir", type=Path, required=True)
    add("--metrics", type=Path, required=True)
    add("--cache_dir", type=Path, default=Path(".cache"), help="photo hashes; default: .cache")
    add("--params", type=Path, default=Path("params.yaml"))
    return parser.parse_args()


def load_critiques(
    application: ApplicationParams, sources: PairSources, counts: Counter[str]
) -> Iterator[RatedCritique]:
    """Yield the rated critiques; none if the source is a list, or no service has used it."""
    path = locate_source(Path(application.db_path))
    if is_database(path):
        with suppress(NoFeedbackError):
            yield from load_rated_critiques(str(path), sources.advisor, sources.folders, counts)


def main() -> None:
    args = parse_args()
    params = load_params(args.params)
    application, counts = params.application, Counter[str]()
    names = (application.source_dir, application.analysis_dir, application.html_dir)
    folders = ApplicationFolders(*map(Path, names))
    sources = PairSources(
        args.advisor, folders, args.prepared_dir, args.cache_dir, params.prepare.session_minutes
    )
    is_needed = params.train.method == "orpo"
    critiques = load_critiques(application, sources, counts) if is_needed else ()
    pair_set = collect_pairs(critiques, sources, params.image, counts)
    write_pairs(pair_set, params.persona(args.advisor), params.image, args.output_dir)
    write_json(args.metrics, pair_set.metrics())
    unused = f"preferences {args.advisor}: no pairs, as train.method is {params.train.method}"
    print(pair_set.summary() if is_needed else unused)


if __name__ == "__main__":
    run_command(main)
