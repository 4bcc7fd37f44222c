"""mondrian check: find what DVC would only report as a missing file, or a stage after hours."""

from pathlib import Path

from mondrian.cli.parser import add_params, command_parser
from mondrian.core.errors import ParamsError
from mondrian.core.files import suggest_path
from mondrian.core.params import Params, load_params
from mondrian.data.application import check_dependencies, find_application

_SAMPLE = Path("data/sample")  # dvc repro renders it


def main(argv: list[str]) -> None:
    parser = command_parser("check", "mondrian check && dvc repro")
    add_params(parser)
    args = parser.parse_args(argv)
    params = load_params(args.params)
    if problems := find_missing_paths(params, args.params.parent):
        raise ParamsError("\n  ".join([f"{args.params}: paths that cannot be used", *problems]))
    source = args.params.parent / params.application.db_path
    if source.exists():
        photos = args.params.parent / params.application.source_dir
        application = find_application(source, photos, params.advisors)
        check_dependencies(application.folders, args.params.parent)
        print(application.describe_jobs())
    print(f"{args.params} is complete; next: dvc repro")


def find_missing_paths(params: Params, project: Path) -> list[str]:
    """Return a line per path that is missing, or is not what a stage needs."""
    paths = {f"application.{key}": path for key, path in params.application}
    base = params.base.source
    if base.startswith(("/", ".", "models/")) or (project / base).exists():  # or a name on the hub
        paths["base.source"] = base
    return [
        f"{name} is {path!r}{problem}"
        for name, path in paths.items()
        if (problem := _describe_problem(name, project / path)) is not None
        and ((project / path).exists() or not Path(path).is_relative_to(_SAMPLE))
    ]


def _describe_problem(name: str, path: Path) -> str | None:
    if not path.exists():
        return suggest_path(path)
    if name.endswith("_dir") and not path.is_dir():
        return "; it must be a folder"
    if name == "base.source" and not (path / "config.json").is_file():
        return "; it must be a folder with config.json"
    return None
