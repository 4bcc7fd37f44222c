"""What a plan needs of a base on the Hugging Face hub: config and tokenizer, never its weights."""

import sys
from functools import cache
from pathlib import Path

from mondrian.core.base_source import is_hub_id
from mondrian.core.errors import one_line
from mondrian.model.architecture import find_base_folder

_FILES = ("config.json", "tokenizer*", "vocab.json", "merges.txt", "chat_template*")
_TIMEOUT = 10  # seconds for the hub's first answer


@cache
def find_plan_files(source: str) -> Path | None:
    """Return a folder with the config and the tokenizer of a base, fetched if it is on the hub.

    None if there is none; a note on stderr then says how to fetch the base.
    """
    folder = find_base_folder(source)
    if folder is not None or not is_hub_id(source):
        return folder
    from huggingface_hub import snapshot_download

    try:
        snapshot_download(source, allow_patterns=list(_FILES), etag_timeout=_TIMEOUT)
    except Exception as error:  # the hub's client raises many types
        sys.stderr.write(
            f"note: {source} is not on this machine and cannot be fetched "
            f"({one_line(error, 120)}); sizes are estimated from its name and tokens from the "
            f"rows' words; for a plan of the model itself: hf download {source}\n"
        )
        return None
    return find_base_folder(source)
