"""The rule for ids of advisors, which are part of file names, DVC stages, URLs and git tags."""

import argparse
import re
from typing import Annotated

from pydantic import AfterValidator

_ADVISOR_ID = re.compile(r"[A-Za-z](?:[A-Za-z0-9_-]{0,62}[A-Za-z0-9])?")
RULE = (
    "the id of an advisor has 1 to 64 letters (a-z, A-Z), digits, - and _, with a letter first and "
    "a letter or digit last, and is not 'all'"
)


def check_advisor_id(text: str) -> str:
    """Return the text, or raise ValueError with the rule.

    DVC reads a dot as a key of a section and 1e5 as a number, and has a shell read the rest; a
    stored advisor `all` or `a, b` means several.
    """
    if not _ADVISOR_ID.fullmatch(text) or text.lower() == "all":
        raise ValueError(RULE)
    return text


def advisor_id(text: str) -> str:
    """Check a flag; raises the error that argparse reports."""
    try:
        return check_advisor_id(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r:.80}: {error}") from None


AdvisorId = Annotated[str, AfterValidator(check_advisor_id)]
