"""Errors in the words of a photographer: what happened, and what to do."""

from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException

from mondrian.serving.assignment import UnknownModeError
from mondrian.serving.engines.base import EngineFault
from mondrian.serving.http.html_response import BODY_MESSAGES, to_sentence
from mondrian.serving.http.uploads import RequestRejectedError
from mondrian.serving.jobs.admission import QueueFullError
from mondrian.serving.service import ServiceUnavailableError
from mondrian.storage.jobs import STOPPED

_PHOTO_MESSAGES = {  # by reason code of PhotoError
    "image_unreadable": "This file cannot be read as a photo. Export it again as JPEG.",
    "image_raw": "This is a camera's raw file. Export it as JPEG or TIFF.",
    "image_too_small": "The photo is too small to be judged. Send a larger copy.",
    "image_too_large": "The photo has too many pixels. Export a smaller copy.",
    "image_blank": "The photo is blank, one color everywhere. Choose another.",
}
_STORAGE_MESSAGE = (
    "Photos and critiques cannot be saved or read at the moment. Try again in a minute; if it "
    "happens again, see the log of the service."
)
_ENGINE_MESSAGE = "The model did not answer. Try again in a minute."
_STOPPING_MESSAGE = "The service is stopping or starting. Try again in a minute."


def error_message(error: Exception, message: str) -> str:
    """Return what a page says; `message` is what the API says about the error."""
    match error:
        case RequestRejectedError():
            return _request_message(message)
        case HTTPException() if error.status_code in BODY_MESSAGES:
            return BODY_MESSAGES[error.status_code]
        case HTTPException() if error.status_code == 503:
            return to_sentence(message)
        case UnknownModeError():
            return "This model is not one of those shown. Choose one of them."
        case QueueFullError():
            return f"Many critiques are waiting. Try again in {error.seconds} s."
        case ServiceUnavailableError():
            return _STOPPING_MESSAGE
        case EngineFault():
            return _ENGINE_MESSAGE
        case OSError() | SQLAlchemyError():
            return _STORAGE_MESSAGE
    return message


def describe_job_error(error: str) -> str:
    """Return what a page says about a job with this error."""
    reason = error.partition(": ")[0]
    if reason in _PHOTO_MESSAGES:
        return _PHOTO_MESSAGES[reason]
    if error == STOPPED:
        return "It was stopped by a person."
    return f"The critique could not be finished: {error.rstrip('.')}."


def _request_message(message: str) -> str:
    reason = message.partition(": ")[0]
    if reason in _PHOTO_MESSAGES:
        return _PHOTO_MESSAGES[reason]
    if message == "No image provided" or "(0 bytes)" in message:
        return "There is no photo yet. Choose one, then send it."
    return to_sentence(message)
