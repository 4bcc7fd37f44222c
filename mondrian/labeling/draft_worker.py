"""Critique photos in the background: python -m mondrian.labeling.draft_worker, by DraftProcess.

stdin is one line of JSON, DraftRequest; its end ends this process. stdout gets the path of the log
of drafts as soon as the model is loaded; drafts that are in it already are not generated again.
"""

import os
import sys
from threading import Thread

from filelock import FileLock, Timeout

from mondrian.core.errors import DataError, run_command
from mondrian.core.params import load_params
from mondrian.inference.critic import Critic
from mondrian.inference.critique_log import CritiqueLog
from mondrian.inference.photo_critiques import PhotoCritiques
from mondrian.inference.photo_files import PhotoListing
from mondrian.inference.photo_reader import PreviewFolder
from mondrian.labeling.draft_process import DraftRequest, format_log_line

_BATCH_SIZE = 2  # at most: the first draft is needed soon, and a person is slower than the model


def main() -> None:
    request = DraftRequest.model_validate_json(sys.stdin.readline())
    Thread(target=_end_with_parent, daemon=True).start()
    params = load_params(request.params)
    batch_size = min(_BATCH_SIZE, params.evaluate.batch_size)
    evaluate = params.evaluate.model_copy(update={"batch_size": batch_size})
    params = params.model_copy(update={"evaluate": evaluate})
    critic = Critic(params, request.advisor, request.adapter, compare=False)
    path = request.folder / f"{critic.arms[0].settings[:32]}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.write(format_log_line(path))
    sys.stdout.flush()
    try:
        with FileLock(path.with_suffix(".lock"), timeout=0):
            listing = PhotoListing(request.photos, request.folder)
            critiques = PhotoCritiques(critic, request.advisor, listing)
            previews = PreviewFolder(request.folder / "previews")
            critiques.run(CritiqueLog(path), previews, params.image)
    except Timeout:
        raise DataError(f"another mondrian label writes drafts into {path}") from None


def _end_with_parent() -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os._exit(0)


if __name__ == "__main__":
    run_command(main)
