"""The environment of child processes."""

import pytest

from mondrian.core.environment import environment_without_secrets


def test_a_child_process_inherits_no_key_and_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = "MONDRIAN_API_KEY OPENAI_API_KEY HF_TOKEN PGPASSWORD AWS_SECRET_ACCESS_KEY".split()
    others = "TOKENIZERS_PARALLELISM KEYBOARD_LAYOUT SECRETARY MONDRIAN_DEVICE HF_HOME".split()
    for name in (*secrets, *others):
        monkeypatch.setenv(name, "value")
    environment = environment_without_secrets()
    assert not environment.keys() & set(secrets)
    assert environment.keys() >= {*others, "PATH"}
