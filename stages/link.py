"""link: database or list + photos -> data/linked/<advisor>/, metrics/<advisor>/link.*

Database and folders are those of `application` in params.yaml unless flags name others: no shell
reads them, so that any character may be in their names.
"""

import argparse
from pathlib import Path

from mondrian.core.advisor_id import advisor_id
from mondrian.core.errors import run_command
from mondrian.core.files import write_csv, write_json, write_text
from mondrian.core.params import ApplicationParams, load_params
from mondrian.data.critique_lookup import ApplicationFolders
from mondrian.data.link import MANIFEST_FILE, NoPairsError, format_link_summary, link
from mondrian.data.link_context import LinkContext
from mondrian.data.manifest import Manifest, count_outcomes
from mondrian.data.report.data_report import (
    DATA_REPORT_FILE,
    render_data_report,
    summarize_manifest,
)
from mondrian.data.sources import default_photo_folder, locate_source


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Link finished jobs to their photos.")
    add = parser.add_argument
    source_help = "mondrian.db; a list as CSV, JSON lines or JSON; or the folder of a list"
    add("--db_path", type=Path, help=f"{source_help}; default: application.db_path")
    add("--advisor", type=advisor_id, required=True)
    add("--output_dir", type=Path, required=True)
    photos_help = "photos; default: source/ next to a database, the folder of a list"
    add("--source_dir", type=Path, help=photos_help)
    add("--analysis_dir", type=Path, help="default: analysis_md/ next to the database")
    add("--html_dir", type=Path, help="default: analysis/ next to the database")
    add("--cache_dir", type=Path, default=Path(".cache"), help="photo hashes; default: .cache")
    add("--metrics", type=Path, help="counts; default: link.json in the output folder")
    add("--reasons_csv", type=Path, help="job outcomes; default: reasons.csv in the output folder")
    add("--report", type=Path, help=f"page; default: {DATA_REPORT_FILE} in the output folder")
    add("--params", type=Path, default=Path("params.yaml"))
    return parser.parse_args()


def locate_application(
    args: argparse.Namespace, application: ApplicationParams
) -> tuple[Path, ApplicationFolders]:
    """Return the source and its folders: of params.yaml, or next to --db_path."""
    if args.db_path is None:
        names = (application.source_dir, application.analysis_dir, application.html_dir)
        source, defaults = locate_source(Path(application.db_path)), tuple(map(Path, names))
    else:
        source = locate_source(args.db_path)
        analyses = (source.parent / "analysis_md", source.parent / "analysis")
        defaults = (default_photo_folder(source), *analyses)
    flags = (args.source_dir, args.analysis_dir, args.html_dir)
    folders = (flag or default for flag, default in zip(flags, defaults, strict=True))
    return source, ApplicationFolders(*folders)


def main() -> None:
    args = parse_args()
    manifest_path = args.output_dir / MANIFEST_FILE
    metrics = args.metrics or args.output_dir / "link.json"
    reasons = args.reasons_csv or args.output_dir / "reasons.csv"
    report = args.report or args.output_dir / DATA_REPORT_FILE
    for path in (manifest_path, metrics, reasons, report):
        path.unlink(missing_ok=True)  # prepare must not use an older manifest after an error
    params = load_params(args.params)
    source, folders = locate_application(args, params.application)
    context = LinkContext(args.advisor, folders, params.link)
    problem: NoPairsError | None = None
    try:
        counts = link(source, context, params.image, args.cache_dir, args.output_dir)
    except NoPairsError as error:
        counts, problem = error.counts, error
    write_json(metrics, counts)
    write_csv(reasons, ("reason", "jobs"), count_outcomes(counts).items())
    summary = summarize_manifest(Manifest(manifest_path), params.link)
    write_text(report, render_data_report(summary, str(problem or "")))
    if problem:
        raise problem
    print(format_link_summary(args.advisor, counts, summary.switches))
    print(f"  report: {report}")


if __name__ == "__main__":
    run_command(main)
