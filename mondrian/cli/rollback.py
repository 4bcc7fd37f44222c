"""mondrian rollback: activate the previous version, and end the rollout of the one before it."""

from mondrian.cli.parser import add_db, add_serving_dir, command_parser
from mondrian.core.errors import DataError
from mondrian.registry.local_store import LocalStore
from mondrian.registry.pull import activate_previous
from mondrian.registry.version import version_tag
from mondrian.rollout.activation import activate_by_name, describe_activated, rollback_reason
from mondrian.rollout.lookup import NoRolloutsError, current_user
from mondrian.rollout.store import Actor
from mondrian.storage.engine import redact_url


def main(argv: list[str]) -> None:
    parser = command_parser(
        "rollback",
        "mondrian rollback ansel",
        "Its rollout ends too, if --db is the service's database. A running service follows within "
        "seconds.",
    )
    parser.add_argument("advisor", help="advisor of the versions, such as ansel")
    add_serving_dir(parser)
    add_db(parser)
    args = parser.parse_args(argv)
    result = activate_previous(LocalStore(args.serving_dir / args.advisor, args.advisor))
    tag = version_tag(args.advisor, result.version)
    print(f"{tag} is active again, instead of {result.replaced_version}")
    print(_end_rollout(args.db, tag, version_tag(args.advisor, result.replaced_version)))


def _end_rollout(db: str, active_tag: str, replaced_tag: str) -> str:
    """Pass the rollback on to the database; return what it changed."""
    actor = Actor(current_user(), rollback_reason(active_tag))
    try:
        active, replaced = activate_by_name(db, active_tag, replaced_tag, actor)
    except NoRolloutsError as error:
        return f"no rollout was ended: {error}"
    except DataError as error:
        raise DataError(f"the rollout of {replaced_tag} was not ended: {error}") from None
    ended = f"the rollout of {replaced_tag} has ended"
    if not replaced:
        ended = f"there is no rollout of {replaced_tag} in --db {redact_url(db)}"
    if not active:
        return f"{ended}; that of {active_tag} starts with the service"
    return f"{ended}\n{active_tag}: {describe_activated(active)}"
