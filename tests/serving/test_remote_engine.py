"""What an OpenAI-compatible server answers instead of critiques is one line with the fix."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from PIL import Image

from mondrian.core.errors import ParamsError
from mondrian.serving.engines.base import CritiqueRequest, EngineFault
from mondrian.serving.engines.openai import RemoteEngine, RemoteServer
from mondrian.serving.settings import ENGINE_KEY_VARIABLE, _read_engine_key

KEY = "sk-secret-of-that-server"
Answers = dict[str, tuple[int, str]]  # status and body by path


@contextmanager
def run_server(answers: Answers, key: str = "") -> Iterator[str]:
    """Run a server that answers by path, or 401 without its key; yield its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            status, body = answers.get(self.path, (404, "no such path"))
            if key and self.headers.get("authorization") != f"Bearer {key}":
                status, body = 401, "unauthorized"
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        do_POST = do_GET

        def log_message(self, format: str, *args: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def find_state(url: str, key: str = "") -> tuple[str, str]:
    """Return status and message of an engine after it has asked for the models."""

    async def refresh() -> tuple[str, str]:
        engine = RemoteEngine(RemoteServer(url, {"base": "m"}, key), 1, 100, False)
        await engine._refresh_state()
        await engine.stop()
        return engine.state.status, engine.state.message

    return asyncio.run(refresh())


def critique_error(url: str, key: str = "") -> str:
    async def critique() -> str:
        engine = RemoteEngine(RemoteServer(url, {"base": "m"}, key), 1, 100, False)
        image = Image.new("RGB", (64, 64))
        request = CritiqueRequest("ansel", "", [], image, 10, lambda text, tokens: None, False)
        with pytest.raises(EngineFault) as caught:
            await engine.critique(request)
        await engine.stop()
        return str(caught.value)

    return asyncio.run(critique())


MODELS = (200, json.dumps({"data": [{"id": "m"}]}))


def test_a_server_gets_the_key_of_the_environment() -> None:
    with run_server({"/v1/models": MODELS}, KEY) as url:
        assert find_state(url, KEY) == ("ready", "")


@pytest.mark.parametrize(
    ("key", "problem"), [("", "is not set"), ("sk-of-another-server", "was refused")]
)
def test_401_names_the_variable_and_not_the_key(key: str, problem: str) -> None:
    with run_server({"/v1/models": MODELS}, KEY) as url:
        message = f"{url} answered 401: MONDRIAN_ENGINE_KEY {problem}; "
        message += "it must be an API key of that server"
        assert find_state(url, key) == ("loading", message)
        assert critique_error(url, key) == message


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((404, "no"), "answered 404: does --engine_url end in /v1"),
        ((429, "slow\ndown"), "answered 429: slow down"),
        ((500, "out of memory"), "answered 500: out of memory"),
        ((200, "<html>"), "/models is not a list of models; does --engine_url end in /v1?"),
    ],
)
def test_other_answers_are_said_as_such(answer: tuple[int, str], message: str) -> None:
    with run_server({"/v1/models": answer}) as url:
        status, text = find_state(url)
        assert status == "loading"
        assert message in text


def test_a_server_that_is_overloaded_is_said_in_the_error_of_the_critique() -> None:
    with run_server({"/v1/chat/completions": (503, "overloaded")}) as url:
        assert critique_error(url) == f"{url} answered 503: overloaded"


def test_the_key_appears_in_no_representation() -> None:
    assert KEY not in repr(RemoteServer("http://x/v1", {}, KEY))


def test_a_key_that_no_header_can_carry_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENGINE_KEY_VARIABLE, "sk-a\nb")
    with pytest.raises(ParamsError, match="MONDRIAN_ENGINE_KEY has characters") as caught:
        _read_engine_key()
    assert "sk-a" not in str(caught.value)
