"""Who may call, how often, and what is disclosed: origins, keys, limits, headers, logs."""

import base64
import json
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from PIL import Image

from mondrian.cli.serve import parse_args
from mondrian.core.errors import ParamsError
from mondrian.serving.http.security import SECURITY_HEADERS, session_token
from mondrian.serving.settings import API_KEY_VARIABLE, ServiceSettings, load_settings
from tests.conftest import ROOT
from tests.core.odd_photos import encode
from tests.service_process import model_process, run_service
from tests.serving.idle_service import application
from tests.waiting import PATIENCE, wait_for

SECRET = "a-key-of-more-than-16-characters"


def test_other_machines_need_a_key_or_open_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(key: str, *flags: str) -> Any:
        monkeypatch.setenv(API_KEY_VARIABLE, key)
        return load_settings(parse_args(["--params", str(ROOT / "params.yaml"), *flags]))

    assert not load("", "--host", "127.0.0.1").warnings
    assert not load(SECRET, "--host", "0.0.0.0").warnings
    for host in ("0.0.0.0", "::", "192.168.1.20", "studio.local"):
        with pytest.raises(ParamsError, match=f"set {API_KEY_VARIABLE}") as error:
            load("", "--host", host)
        assert "\n" not in str(error.value)
        assert "no API key is required" in load("", "--host", host, "--open_network").warnings[0]
    with pytest.raises(ParamsError, match="16 or more"):
        load("short", "--host", "0.0.0.0")
    with pytest.raises(ParamsError, match="--allow_origin is"):
        load("", "--allow_origin", "*")


def test_a_page_of_another_origin_reads_answers_only_if_it_is_allowed(tmp_path: Path) -> None:
    lab, evil = {"origin": "https://lab.example"}, {"origin": "https://evil.example"}
    preflight = {
        "access-control-request-method": "POST",
        "access-control-request-headers": "x-api-key",
    }
    with application(tmp_path) as (client, _):
        response = client.get("/advisors", headers=lab)
        assert "access-control-allow-origin" not in response.headers
        assert client.options("/analyze", headers=lab | preflight).status_code >= 400
    with application(tmp_path, "--allow_origin", "https://lab.example") as (client, _):
        response = client.get("/advisors", headers=lab)
        assert response.headers["access-control-allow-origin"] == "https://lab.example"
        assert "access-control-allow-credentials" not in response.headers
        assert client.options("/analyze", headers=lab | preflight).status_code == 200
        assert "access-control-allow-origin" not in client.get("/advisors", headers=evil).headers
        assert client.options("/analyze", headers=evil | preflight).status_code == 400


def test_an_unexpected_error_has_the_request_id_of_its_log_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with application(tmp_path) as (client, service):
        monkeypatch.setattr(service.store, "get", lambda id: 1 / 0)
        response = client.get("/status/x", headers={"x-request-id": "mine"})
    assert response.status_code == 500
    assert list(response.json()) == ["error"]
    assert "ZeroDivisionError" not in response.text
    assert response.headers["x-request-id"] == "mine"
    assert response.headers["x-content-type-options"] == "nosniff"


def test_trusted_proxies_are_addresses_or_networks(tmp_path: Path) -> None:
    def settings_of(*proxies: str) -> ServiceSettings:
        values = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
        values["serve"]["trusted_proxies"] = list(proxies)
        path = tmp_path / "params.yaml"
        path.write_text(yaml.safe_dump(values, allow_unicode=True, sort_keys=False))
        return load_settings(parse_args(["--params", str(path)]))

    def load(*proxies: str) -> tuple[str, ...]:
        return settings_of(*proxies).trusted_proxies

    assert load() == ()
    assert load("127.0.0.1", "10.1.2.3/8", "::1") == ("127.0.0.1/32", "10.0.0.0/8", "::1/128")
    (warning,) = settings_of("127.0.0.1").warnings
    assert warning.startswith("everyone who reaches its proxy may use this service")
    for value in ("proxy.example", "*", "", "10.0.0.0/33"):
        with pytest.raises(ParamsError) as error:
            load("127.0.0.1", value)
        assert f"params.yaml: serve.trusted_proxies has {value!r}; write an address" in str(
            error.value
        )


def test_wrong_keys_in_the_login_form_are_slowed_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(API_KEY_VARIABLE, SECRET)
    with application(tmp_path) as (client, _):
        responses = [client.post("/login", data={"key": f"{i}"}) for i in range(7)]
        assert [response.status_code for response in responses] == [403] * 5 + [429] * 2
        assert int(responses[-1].headers["retry-after"]) >= 1
        assert "Too many wrong API keys; try again in" in responses[-1].text
        guess = client.get("/jobs", headers={"x-api-key": "guess"})
        assert guess.status_code == 429  # header and form share the limit
        login = client.post("/login", data={"key": SECRET}, follow_redirects=False)
        assert login.status_code == 303
        metrics = client.get("/metrics", headers={"x-api-key": SECRET}).text
    assert 'mondrian_refused_total{status="403"} 5.0' in metrics
    assert 'mondrian_refused_total{status="429"} 3.0' in metrics


def test_a_large_json_body_is_refused_and_counted(tmp_path: Path) -> None:
    with application(tmp_path) as (client, _):
        paths = ("/jobs", "/jobs/x/feedback", "/api/experiments/ansel/v1/hold", "/feedback/x")
        for path in paths:
            for content in (b" " * 256_001, iter([b" " * 256_001])):
                headers = {"content-type": "application/json"}
                response = client.post(path, content=content, headers=headers)
                # `/feedback` is a form, and looks at the job first
                expected = (404, 413) if path == "/feedback/x" else (413,)
                assert response.status_code in expected, (path, response.text)
        assert 'mondrian_refused_total{status="413"} 7.0' in client.get("/metrics").text


def test_a_draining_service_answers_503(tmp_path: Path) -> None:
    with application(tmp_path) as (client, service):
        assert client.get("/health").json()["status"] == "UP"
        service.drain()
        health = client.get("/health")
        assert (health.status_code, health.json()["status"]) == (503, "draining")
        for path in ("/ready", "/jobs", "/", "/stream/x", "/static/app.js", "/nothing"):
            assert client.get(path).status_code == 503, path
        response = client.post("/upload", data={"advisor": "ansel"})
        assert (response.status_code, response.headers["retry-after"]) == (503, "5")
        assert response.json() == {"error": "the service is stopping"}
        assert "mondrian_ready 0.0" in client.get("/metrics").text


@pytest.mark.slow
def test_the_address_of_a_client_is_that_of_a_trusted_proxy_s_header(tmp_path: Path) -> None:
    forwarded = {"x-forwarded-for": "198.51.100.1, 203.0.113.7", "x-forwarded-proto": "https"}
    env, key = {API_KEY_VARIABLE: SECRET}, {"x-api-key": SECRET}
    for proxies, client_address, is_secure in (
        ([], "127.0.0.1", False),
        (["127.0.0.0/8"], "203.0.113.7", True),
    ):
        with run_service(tmp_path, env=env, ready=False, trusted_proxies=proxies) as service:
            with service.client(headers=forwarded) as client:
                login = client.post("/login", data={"key": SECRET})
                client.cookies.clear()
                assert ("Secure" in login.headers["set-cookie"]) == is_secure
                for _ in range(6):
                    refused = client.get("/jobs", headers={"x-api-key": "wrong"})
                assert refused.status_code == 429
                other = client.get(
                    "/jobs", headers={"x-api-key": "wrong", "x-forwarded-for": "203.0.113.8"}
                )
                assert other.status_code == (401 if proxies else 429)
                assert client.get("/jobs", headers=key).status_code == 200
            clients = {line["client"] for line in service.lines() if line.get("path") == "/login"}
            assert clients == {client_address}


@pytest.mark.slow
def test_the_command_refuses_to_serve_other_machines_without_a_key() -> None:
    command = [sys.executable, str(ROOT / "mondrian/ai_advisor_service.py"), "--host", "0.0.0.0"]
    env = {"PYTHONPATH": str(ROOT), "PATH": ""}
    process = subprocess.run(
        command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE
    )
    assert process.returncode != 0
    assert process.stderr.startswith("error: --host 0.0.0.0 can be reached by other machines")
    assert len(process.stderr.strip().split("\n")) == 1


@pytest.mark.slow
def test_each_start_with_open_network_logs_a_warning(tmp_path: Path) -> None:
    for _ in range(2):
        with run_service(tmp_path, "--host", "0.0.0.0", "--open_network", ready=False) as service:
            warnings = [line for line in service.lines() if line["level"] == "warning"]
        assert "everyone who reaches 0.0.0.0 may use this service" in warnings[0]["message"]


@pytest.mark.slow
def test_the_log_contains_no_key_and_no_photo_and_each_line_has_its_request_id(
    tmp_path: Path, photos: list[Image.Image]
) -> None:
    photo, authorized = encode(photos[0], "JPEG"), {"authorization": f"Bearer {SECRET}"}
    files, env = {"image": ("lake.jpg", photo)}, {API_KEY_VARIABLE: SECRET}
    with run_service(tmp_path, env=env) as service, service.client() as client:
        refused = client.post("/analyze", files=files, headers={"x-api-key": SECRET + "x"})
        assert refused.status_code == 401
        assert client.get("/openapi.json").status_code == 401
        assert client.get("/openapi.json", headers=authorized).json()["paths"]
        headers = {**authorized, "x-request-id": "mine-1"}
        analyzed = client.post("/analyze", files=files, headers=headers)
        assert (analyzed.status_code, analyzed.headers["x-request-id"]) == (200, "mine-1")
        listed = client.get("/jobs", headers={**authorized, "x-request-id": "<script>"})
        assert listed.headers["x-request-id"] != "<script>"
        login = client.post("/login", data={"key": SECRET}, headers={"origin": service.url})
        assert login.status_code == 303
        assert "HttpOnly" in login.headers["set-cookie"]
        assert client.get("/jobs").status_code == 200  # with the cookie
        responses = [refused, analyzed, listed, login]
        responses += [client.get("/health"), client.get("/nothing")]
    for response in responses:
        assert response.headers["x-request-id"]
        assert {name: response.headers[name] for name in SECURITY_HEADERS} == SECURITY_HEADERS
    lines = [json.loads(line) for line in service.log().strip().split("\n")]
    status_by_id = {line["request"]: line["status"] for line in lines if "path" in line}
    assert status_by_id.keys() >= {response.headers["x-request-id"] for response in responses[:4]}
    assert status_by_id["mine-1"] == 200
    for secret in (SECRET, session_token(SECRET), base64.b64encode(photo[:60]).decode(), "JFIF"):
        assert secret not in service.log()


@pytest.mark.slow
def test_a_client_of_a_full_service_is_told_when_to_try_again(
    tmp_path: Path, photos: list[Image.Image]
) -> None:
    files = {"image": ("lake.jpg", encode(photos[0], "JPEG"))}

    with run_service(tmp_path, batch_size=1, max_waiting_requests=1, max_queued_jobs=1) as service:

        def post(path: str) -> httpx2.Response:
            with service.client() as client:
                return client.post(path, files=files)

        model = model_process(service)
        assert model
        with ThreadPoolExecutor(8) as pool:
            model.send_signal(signal.SIGSTOP)  # no slot is free before all requests have come
            requests = [pool.submit(post, "/analyze") for _ in range(8)]
            wait_for(lambda: sum(request.done() for request in requests) >= 6)
            model.send_signal(signal.SIGCONT)
            direct = [request.result() for request in requests]
        assert {response.status_code for response in direct} == {200, 429}
        completed = [response for response in direct if response.status_code == 200]
        assert len(completed) <= 2  # one in its slot, and one that waited
        queued: list[httpx2.Response] = []
        while len(queued) < 10 and (not queued or queued[-1].status_code == 201):
            queued.append(post("/upload"))
        refused = next(response for response in direct if response.status_code == 429)
        for response in (refused, queued[-1]):
            assert response.status_code == 429
            assert int(response.headers["retry-after"]) >= 1
            assert response.json()["error"].startswith("too many critiques are waiting")
        wait_for(lambda: post("/analyze").status_code == 200)  # it recovers
