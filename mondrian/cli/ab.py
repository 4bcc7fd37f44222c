"""mondrian ab: the outcome of the service's A/B test without a rollout."""

import json
from math import isnan
from pathlib import Path
from textwrap import fill
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from mondrian.cli.parser import add_db, command_parser
from mondrian.core.errors import DataError
from mondrian.core.terminal import LINE_WIDTH, format_table
from mondrian.rollout.confidence_sequences import Interval
from mondrian.serving.ab_outcome import (
    ARM_LABELS,
    EQUAL,
    AbOutcome,
    format_percentages,
    format_share,
    load_ab_outcomes,
)
from mondrian.storage.engine import engine_name, format_database_error, open_engine
from mondrian.storage.tables import check_jobs_table

_COLUMNS = ("", "critiques", "ratings", "thumbs up", "95 % interval")


def main(argv: list[str]) -> None:
    parser = command_parser(
        "ab",
        "mondrian ab --advisor ansel\nmondrian ab --db postgresql://localhost/mondrian --json",
        "Only critiques with an arm chosen at random count. Intervals are valid at all times.",
    )
    add_db(parser)
    parser.add_argument("--advisor", default="", help="only this advisor")
    parser.add_argument("--json", action="store_true", help="everything, as JSON")
    args = parser.parse_args(argv)
    outcomes = _load(args.db, args.advisor)
    if args.json:
        items = [_serialize(outcome) for outcome in outcomes]
        print(json.dumps(items, indent=2, ensure_ascii=False, allow_nan=False))
    elif outcomes:
        print("\n\n".join(map(format_outcome, outcomes)))
    else:
        name = f" of {args.advisor}" if args.advisor else ""
        print(f"no A/B critiques{name} yet; `mondrian serve --model_mode ab_test` makes them")
        print("critiques of a rollout are in `mondrian rollout report`")


def _load(db: str, advisor: str) -> list[AbOutcome]:
    if "://" not in db and not Path(db).is_file():
        raise DataError(f"--db {db} does not exist; start the service first, or give its --db")
    engine = open_engine(db)
    name = engine_name(engine)
    try:
        check_jobs_table(engine, f"--db {name}")
        return load_ab_outcomes(engine, advisor)
    except SQLAlchemyError as error:
        message = format_database_error(error)
        raise DataError(
            f"--db {name} cannot be read: {message}; start a service on it once"
        ) from None
    finally:
        engine.dispose()


def format_outcome(outcome: AbOutcome) -> str:
    """Return the outcome as a table and sentences."""
    rows = [
        (
            ARM_LABELS[name],
            str(arm.critiques),
            str(arm.ratings),
            format_share(arm.approval),
            format_percentages(arm.approval),
        )
        for name, arm in outcome.arms.items()
    ]
    difference = outcome.difference
    rows.append(
        ("difference", "", "", format_share(difference, True), format_percentages(difference, True))
    )
    sentences = [outcome.conclusion, outcome.vote_conclusion]
    if outcome.fallbacks:
        sentences.append(f"Left out: {outcome.fallbacks} that the base answered for the adapter.")
    lines = [f"{outcome.advisor}, experiment {outcome.experiment!r}", format_table(_COLUMNS, rows)]
    lines += [fill(sentence, LINE_WIDTH) for sentence in sentences if sentence]
    return "\n".join(lines)


def _serialize(outcome: AbOutcome) -> dict[str, Any]:
    arms = {
        name: {
            "critiques": arm.critiques,
            "ratings": arm.ratings,
            "thumbs_up": arm.thumbs_up,
            "approval": _serialize_interval(arm.approval),
        }
        for name, arm in outcome.arms.items()
    }
    return {
        "experiment": outcome.experiment,
        "advisor": outcome.advisor,
        "arms": arms,
        "difference": _serialize_interval(outcome.difference),
        "votes": {name: outcome.votes[name] for name in (*ARM_LABELS, EQUAL)},
        "preference": _serialize_interval(outcome.preference),
        "fallbacks": outcome.fallbacks,
        "conclusion": outcome.conclusion,
        "vote_conclusion": outcome.vote_conclusion,
    }


def _serialize_interval(interval: Interval) -> dict[str, float] | None:
    if isnan(interval.mean):
        return None
    return {"mean": interval.mean, "low": interval.low, "high": interval.high}
