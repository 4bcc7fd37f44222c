"""The environment of child processes."""

import os
import re

# OPENAI_API_KEY, HF_TOKEN, PGPASSWORD, AWS_SECRET_ACCESS_KEY, but not TOKENIZERS_PARALLELISM
_SECRET_NAME = re.compile(
    r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?)(_|$)", re.IGNORECASE
)


def environment_without_secrets() -> dict[str, str]:
    """Return this process's environment for a child process that needs no key or password."""
    return {name: value for name, value in os.environ.items() if not _SECRET_NAME.search(name)}
