"""mondrian judge: compare the critiques of base and adapter blind, on the photos of evaluate."""

import argparse
from functools import partial
from pathlib import Path
from random import SystemRandom

from filelock import FileLock, Timeout

from mondrian.cli.parser import add_local_page, add_params, command_parser
from mondrian.core.advisor_id import advisor_id
from mondrian.core.dvc_paths import read_stage_flags
from mondrian.core.errors import DataError, ParamsError, join_first
from mondrian.core.files import check_output_file, read_json
from mondrian.core.params import Params, load_params
from mondrian.evaluation.preference import VOTES_FILE, VoteLog
from mondrian.evaluation.summary import describe_verdicts
from mondrian.labeling.blind_pairs import build_pairs
from mondrian.labeling.judge_app import JudgePages
from mondrian.labeling.judging import JudgingSession
from mondrian.labeling.local_server import listen, run_local_app

_RUN_EVALUATE = "evaluate again: dvc repro"


def main(argv: list[str]) -> None:
    args = parse_args(argv)
    params = load_params(args.params)
    report_path, details = find_report(args.advisor, params)
    report, votes = read_json(report_path), report_path.with_name(VOTES_FILE)
    check_output_file(votes)
    read_path = details
    try:
        headline, *_ = describe_verdicts(read_json(details))
        read_path = report_path
        if not isinstance(adapter := report["adapter"]["version"], str):
            raise TypeError("version is not a text")
        pairs, left_out = build_pairs(report["photographs"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"{read_path} is not a report of this version ({type(error).__name__}: {error}); "
            f"{_RUN_EVALUATE}"
        ) from None
    reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
    if not pairs:
        raise DataError(f"{report_path} has no photo to compare ({reasons}); {_RUN_EVALUATE}")
    if missing := [str(pair.image) for pair in pairs if not pair.image.is_file()]:
        raise DataError(f"no file {join_first(missing, 3)}; dvc checkout, or dvc repro prepare")
    listener = listen(args.port)
    try:
        with FileLock(votes.with_name(f".{VOTES_FILE}.lock"), timeout=0):
            session = JudgingSession(pairs, VoteLog(votes), adapter, SystemRandom())
            photos = f"{len(pairs)} photos" + (f" ({reasons} left out)" if reasons else "")
            print(f"{args.advisor}, adapter {adapter}: {photos}, {session.num_votes} votes")
            opens_browser = not args.no_browser
            pages = JudgePages(session, params.profile(args.advisor).name, headline)
            run_local_app(pages.build_app(), listener, partial(print, flush=True), opens_browser)
    except Timeout:
        raise DataError(f"another mondrian judge writes {votes}; use its page") from None
    rest = len(pairs) - session.num_votes
    print(f"{session.preference().describe()}; kept in {votes}")
    print("mondrian summary shows them" + (f"; {rest} photos are left to compare" * bool(rest)))
    if votes.exists():
        print(f"commit them with the metrics: git add {votes}")


def find_report(advisor: str, params: Params) -> tuple[Path, Path]:
    """Return the report and the details of an advisor's evaluation, as dvc.yaml names them."""
    if advisor not in params.advisors:
        known = ", ".join(params.advisors)
        raise ParamsError(f"params.yaml has no advisor {advisor!r} (it has {known})")
    paths = read_stage_flags("evaluate", ["output_report", "details"], params)
    report, details = paths[params.advisors.index(advisor)]
    return report, details


def parse_args(argv: list[str]) -> argparse.Namespace:
    parser = command_parser(
        "judge",
        "mondrian judge --advisor ansel",
        "The critiques are those of the last evaluation, on photos that were not trained on. The\n"
        "page does not say which is whose. Votes are kept next to the metrics.",
    )
    parser.add_argument("--advisor", type=advisor_id, required=True, help="one of params.yaml")
    add_local_page(parser, 5201)
    add_params(parser)
    return parser.parse_args(argv)
