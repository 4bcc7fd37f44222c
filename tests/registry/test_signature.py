"""Signed versions: only the version that was signed, by a key that is trusted, is accepted."""

import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from mondrian.core.errors import ReleaseError
from mondrian.registry import tags
from mondrian.registry.git import git, git_bytes
from mondrian.registry.signature import check_key, format_record_line, read_signers
from tests.releasing import make_key

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("ssh-keygen"), reason="there is no ssh-keygen"),
]
RECORD = b'{"version": "v2.0.0"}\n'
TAG, OLDER = "ansel@v2.0.0", "ansel@v1.0.0"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return the releaser's key and a stranger's."""
    folder = tmp_path_factory.mktemp("keys")
    return make_key(folder / "ann"), make_key(folder / "eve")


@dataclass(frozen=True)
class Repository:
    """A repository with a commit of a version."""

    folder: Path
    key: Path
    stranger: Path

    @property
    def commit(self) -> str:
        return self.git("rev-parse", "HEAD")

    def git(self, *args: str, stdin: bytes = b"") -> str:
        return git(*args, root=self.folder, stdin=stdin)

    def sign(self, tag: str, key: Path | None, record: bytes = RECORD) -> None:
        tags.register(tag, self.commit, f"BETTER\n\n{format_record_line(record)}\n", key)

    def verify(self, signers: Path | None = None, tag: str = TAG) -> str:
        trusted = read_signers(str(signers or f"{self.key}.pub"))
        return trusted.verify(self.folder, tag, self.commit, RECORD)

    def read_tag(self, tag: str = TAG) -> bytes:
        return git_bytes("cat-file", "tag", tag, root=self.folder)

    def write_tag(self, content: bytes, tag: str = TAG) -> None:
        """Replace a tag by an object with this content, as anyone may who can push tags."""
        name = self.git("hash-object", "-t", "tag", "-w", "--stdin", "--literally", stdin=content)
        (self.folder / ".git/refs/tags" / tag).write_text(f"{name}\n")  # git refuses some of them


@pytest.fixture
def repository(
    tmp_path: Path, keys: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> Repository:
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "ann")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "ann@example.org")
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    folder = tmp_path / "repository"
    folder.mkdir()
    monkeypatch.chdir(folder)
    repository = Repository(folder, *keys)
    repository.git("init", "-q")
    repository.git("commit", "-q", "--allow-empty", "-m", "version")
    return repository


def test_a_signed_version_names_its_key(repository: Repository) -> None:
    repository.sign(TAG, repository.key)
    assert repository.verify().startswith("SHA256:")


def test_git_verifies_the_same_signature(repository: Repository, tmp_path: Path) -> None:
    repository.sign(TAG, repository.key)
    allowed = tmp_path / "allowed_signers"
    allowed.write_text(f"ann@example.org {Path(f'{repository.key}.pub').read_text()}")
    assert repository.verify(allowed).startswith("ann@example.org (SHA256:")
    config = ("gpg.format=ssh", f"gpg.ssh.allowedSignersFile={allowed}")
    git("verify-tag", TAG, root=repository.folder, config=config)


def test_any_of_several_keys_may_sign(repository: Repository, tmp_path: Path) -> None:
    repository.sign(TAG, repository.key)
    both = tmp_path / "keys"
    files = [Path(f"{key}.pub").read_text() for key in (repository.stranger, repository.key)]
    both.write_text("# releasers\n\n" + "".join(files))
    assert repository.verify(both).startswith("SHA256:")


def test_an_unsigned_version_is_refused(repository: Repository) -> None:
    repository.sign(TAG, None)
    with pytest.raises(ReleaseError, match=r"ansel@v2.0.0 is not signed.*--sign KEY"):
        repository.verify()


def test_a_tag_that_only_names_a_commit_is_refused(repository: Repository) -> None:
    repository.git("tag", TAG)
    with pytest.raises(ReleaseError, match=r"ansel@v2.0.0 is not signed"):
        repository.verify()


def test_the_signature_of_a_stranger_is_refused(repository: Repository) -> None:
    repository.sign(TAG, repository.stranger)
    with pytest.raises(ReleaseError, match=r"signed by SHA256:\S+, which is none of the keys in"):
        repository.verify()


def swap_commit(tag: bytes, repository: Repository) -> bytes:
    repository.git("commit", "-q", "--allow-empty", "-m", "other")
    return tag.replace(tag[7:47], repository.commit.encode())


ALTERATIONS: dict[str, Callable[[bytes, Repository], bytes]] = {
    "message": lambda tag, _: tag.replace(b"BETTER", b"BETTEr"),
    "commit": swap_commit,
    "name": lambda tag, _: tag.replace(b"ansel@v2.0.0", b"ansel@v3.0.0"),
    "tagger": lambda tag, _: tag.replace(b"ann <", b"eve <"),
    "signature": lambda tag, _: tag[:-60] + bytes([tag[-60] ^ 1]) + tag[-59:],
    "cut": lambda tag, _: tag[:-80],
    "empty": lambda tag, _: tag[: tag.index(b"-----BEGIN")] + b"-----BEGIN SSH SIGNATURE-----\n",
    "text after it": lambda tag, _: tag + b"\n" + tag[tag.index(b"-----BEGIN") :] + b"more",
}


@pytest.mark.parametrize("part", ALTERATIONS)
def test_an_altered_tag_is_refused(repository: Repository, part: str) -> None:
    repository.sign(TAG, repository.key)
    altered = ALTERATIONS[part](repository.read_tag(), repository)
    assert altered != repository.read_tag()
    repository.write_tag(altered)
    with pytest.raises(ReleaseError, match=r"ansel@v2.0.0 was altered after it was signed"):
        repository.verify()


def test_the_signature_of_another_object_is_refused(repository: Repository) -> None:
    """A signature of the trusted key, copied from a tag of the same repository."""
    repository.sign(OLDER, repository.key)
    repository.sign(TAG, None)
    signature = repository.read_tag(OLDER).partition(b"-----BEGIN")[2]
    repository.write_tag(repository.read_tag() + b"-----BEGIN" + signature)
    with pytest.raises(ReleaseError, match="was altered after it was signed"):
        repository.verify()


def test_a_signature_of_another_kind_of_text_is_refused(repository: Repository) -> None:
    """ssh-keygen signs files too, in namespaces other than git's."""
    repository.sign(TAG, None)
    content = repository.read_tag()
    command = ["ssh-keygen", "-q", "-Y", "sign", "-n", "file", "-f", str(repository.key)]
    signed = subprocess.run(command, input=content, capture_output=True, check=True)
    repository.write_tag(content + signed.stdout)
    with pytest.raises(ReleaseError, match="was altered after it was signed"):
        repository.verify()


@pytest.mark.parametrize("older", [OLDER, "okeefe@v2.0.0"])
def test_another_signed_version_under_this_name_is_refused(
    repository: Repository, older: str
) -> None:
    repository.sign(older, repository.key)
    repository.git("update-ref", f"refs/tags/{TAG}", repository.git("rev-parse", older))
    with pytest.raises(ReleaseError, match="is signed, but for another tag, commit or record"):
        repository.verify()


def test_a_record_other_than_the_signed_one_is_refused(repository: Repository) -> None:
    """Even if the commit's hash, a SHA-1, could be forged."""
    repository.sign(TAG, repository.key, record=RECORD + b" ")
    with pytest.raises(ReleaseError, match="is signed, but for another tag, commit or record"):
        repository.verify()


def test_a_signed_tag_that_is_no_release_is_refused(repository: Repository) -> None:
    tags.register(TAG, repository.commit, "a version by hand\n", repository.key)
    with pytest.raises(ReleaseError, match="is signed, but for another tag, commit or record"):
        repository.verify()


def test_a_signed_commit_is_no_signed_version(repository: Repository) -> None:
    """The trusted key signed a commit; its text and signature become the content of a tag."""
    config = ("gpg.format=ssh", f"user.signingkey={repository.key}")
    message = f"x\n\n{format_record_line(RECORD)}\n"
    flags = ("commit", "-q", "--allow-empty", "-S", "-m", message)
    git(*flags, root=repository.folder, config=config)
    commit = git_bytes("cat-file", "commit", "HEAD", root=repository.folder)
    header, _, rest = commit.partition(b"gpgsig ")
    lines = rest.split(b"\n")
    end = next(i for i, line in enumerate(lines) if line == b" -----END SSH SIGNATURE-----")
    signature = b"\n".join(line.removeprefix(b" ") for line in lines[: end + 1])
    repository.write_tag(header + b"\n".join(lines[end + 1 :]) + signature + b"\n")
    with pytest.raises(ReleaseError, match="is signed, but for another tag, commit or record"):
        repository.verify()


HOSTILE_SETTINGS = {
    "gpg.format": "openpgp",
    "gpg.program": "true",
    "gpg.ssh.program": "true",
    "gpg.ssh.allowedSignersFile": os.devnull,
    "gpg.ssh.defaultKeyCommand": "false",
    "user.signingkey": "0xDEADBEEF",
    "tag.gpgSign": "true",
    "core.commentChar": "r",
}


@pytest.mark.parametrize("place", ["environment", "file"])
def test_settings_of_git_change_nothing(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    if place == "file":
        monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
        for name, value in HOSTILE_SETTINGS.items():
            git("config", "--global", name, value, root=repository.folder)
    else:
        monkeypatch.setenv("GIT_CONFIG_COUNT", str(len(HOSTILE_SETTINGS)))
        for i, (name, value) in enumerate(HOSTILE_SETTINGS.items()):
            monkeypatch.setenv(f"GIT_CONFIG_KEY_{i}", name)
            monkeypatch.setenv(f"GIT_CONFIG_VALUE_{i}", value)
    repository.sign(OLDER, None)  # not signed, although tag.gpgSign is on
    repository.sign(TAG, repository.key)
    assert repository.verify().startswith("SHA256:")
    with pytest.raises(ReleaseError, match="is not signed"):
        repository.verify(tag=OLDER)
    repository.git("tag", "-d", TAG)
    repository.sign(TAG, repository.stranger)
    with pytest.raises(ReleaseError, match="none of the keys"):
        repository.verify()


def test_an_expired_key_and_one_for_other_things_are_refused(
    repository: Repository, tmp_path: Path
) -> None:
    repository.sign(TAG, repository.key)
    public, allowed = Path(f"{repository.key}.pub").read_text(), tmp_path / "allowed_signers"
    for option in ('valid-before="20200101"', 'namespaces="file"'):
        allowed.write_text(f"ann@example.org {option} {public}")
        with pytest.raises(ReleaseError, match="which is none of the keys in"):
            repository.verify(allowed)


def test_a_private_key_others_may_read_is_refused_with_its_fix(tmp_path: Path) -> None:
    key = make_key(tmp_path / "key")
    key.chmod(0o644)
    with pytest.raises(ReleaseError, match=r"others may read it; chmod 600 \S+key$"):
        check_key(key)
    key.chmod(0o600)
    check_key(key)


def test_a_key_with_a_passphrase_needs_the_agent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    with pytest.raises(ReleaseError, match=r"it has a passphrase; .*ssh-add \S+key$"):
        check_key(make_key(tmp_path / "key", "secret"))


@pytest.mark.parametrize("content", [None, "", "nonsense\n"])
def test_a_file_that_is_no_key_is_refused(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "key"
    if content is not None:
        file.write_text(content)
        file.chmod(0o600)
    with pytest.raises(ReleaseError, match=r"--sign is \S+key"):
        check_key(file)
    with pytest.raises(ReleaseError, match=r"key.* (no readable file|has no public key)"):
        read_signers(str(file))


@pytest.mark.parametrize("name", ["~nobody-of-this-name/key.pub", " ", "a\0b"])
def test_a_name_that_is_no_file_is_refused(name: str) -> None:
    with pytest.raises(ReleaseError, match="no readable file of public keys"):
        read_signers(name)


def test_a_private_key_is_no_signer(repository: Repository) -> None:
    with pytest.raises(ReleaseError, match=r"is a private key; give its public one, KEY.pub"):
        read_signers(str(repository.key))


def test_a_key_of_the_agent_signs(repository: Repository, tmp_path: Path) -> None:
    agent = subprocess.run(["ssh-agent", "-s"], capture_output=True, text=True, check=True)
    variables = dict(part.split("=", 1) for part in agent.stdout.split(";") if "=" in part)
    env = {name.strip(): value for name, value in variables.items()}
    env = os.environ | {name: env[name] for name in ("SSH_AUTH_SOCK", "SSH_AGENT_PID")}
    try:
        subprocess.run(["ssh-add", "-q", repository.key], env=env, check=True)
        public = shutil.copy(f"{repository.key}.pub", tmp_path / "agent.pub")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SSH_AUTH_SOCK", env["SSH_AUTH_SOCK"])
            check_key(Path(public))
            repository.sign(TAG, Path(public))
    finally:
        subprocess.run(["ssh-agent", "-k"], env=env, capture_output=True, check=True)
    assert repository.verify().startswith("SHA256:")


def test_a_machine_without_ssh_keygen_says_so(
    repository: Repository, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ReleaseError, match="ssh-keygen, .* is not installed; install openssh-cli"):
        check_key(repository.key)
