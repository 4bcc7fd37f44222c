"""Signatures of versions with SSH keys, as git makes and checks them (`git verify-tag`).

The tag of a version is signed. It contains the version's name, its commit and the sha256 of its
record, which has the sha256 of every file. Signatures are checked by ssh-keygen on the bytes of the
tag, so that no setting of git counts: not gpg.format, gpg.program, nor a key ring.
"""

import os
import re
import subprocess
import tempfile
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from mondrian.core.errors import ReleaseError
from mondrian.registry import git

_NAMESPACE = "git"  # of git's own signatures
_BEGIN = b"-----BEGIN SSH SIGNATURE-----\n"
_RECORD_LINE = "record sha256 "
_PAYLOAD = re.compile(
    rb"object (?P<commit>[0-9a-f]+)\ntype commit\ntag (?P<tag>[^\n]+)\ntagger [^\n]*\n\n"
    rb"(?:.*\n)?" + _RECORD_LINE.encode() + rb"(?P<record>[0-9a-f]{64})\n",
    re.DOTALL,
)
_KEY_FINGERPRINT = re.compile(r"SHA256:[\w+/]+")


def format_record_line(record: bytes) -> str:
    """Return the last line of a tag's message, which binds the record to the tag."""
    return f"{_RECORD_LINE}{sha256(record).hexdigest()}"


def git_signing_config(key: Path) -> tuple[str, ...]:
    """Return the settings with which git signs a tag, whatever a person's own settings are."""
    return (
        "gpg.format=ssh",
        "gpg.ssh.program=ssh-keygen",
        f"user.signingkey={key.resolve()}",
    )


def check_key(key: Path) -> None:
    """Raise ReleaseError unless ssh-keygen can sign with a key, or with one of ssh-agent."""
    if not key.is_file():
        raise ReleaseError(f"--sign is {key}, which is not a file; give an SSH key: ssh-keygen")
    process = _ssh_keygen("-Y", "sign", "-n", _NAMESPACE, "-f", str(key), stdin=b"test")
    if not process.returncode:
        return
    message = process.stderr.decode(errors="replace").strip()
    if "are too open" in message:
        problem = f"others may read it; chmod 600 {key}"
    elif "passphrase" in message:
        problem = f"it has a passphrase; add it to ssh-agent: ssh-add {key}"
    else:
        last = message.rpartition("\n")[2].strip()[:200]
        problem = f"{last}; give a private SSH key, or the .pub of one that ssh-agent has"
    raise ReleaseError(f"--sign is {key}, and ssh-keygen cannot sign with it: {problem}")


@dataclass(frozen=True)
class Signers:
    """The keys by one of which a version must be signed, as lines of git's allowed_signers."""

    file: Path
    keys: str

    def verify(self, repo_folder: Path, tag: str, commit: str, record: bytes) -> str:
        """Return who signed a version.

        Raises ReleaseError unless its tag is signed by one of the keys and names this version,
        commit and record.
        """
        payload, mark, armor = _read_tag(repo_folder, tag).rpartition(_BEGIN)
        if not mark:
            raise ReleaseError(
                f"{tag} is not signed, and {self.file} asks for a signature; release the next "
                "version with --sign KEY"
            )
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "allowed").write_text(self.keys)
            (Path(folder) / "signature").write_bytes(mark + armor)
            signer = self._verify_payload(Path(folder), payload, tag)
        match = _PAYLOAD.fullmatch(payload)
        expected = tag.encode(), commit.encode(), sha256(record).hexdigest().encode()
        if match is None or match.group("tag", "commit", "record") != expected:
            raise ReleaseError(
                f"{tag} is signed, but for another tag, commit or record; it may be a signature "
                "of another version. Who moved the tag?"
            )
        return signer

    def _verify_payload(self, folder: Path, payload: bytes, tag: str) -> str:
        flags = ("-n", _NAMESPACE, "-s", str(folder / "signature"))
        process = _ssh_keygen("-Y", "check-novalidate", *flags, stdin=payload)
        fingerprint = _KEY_FINGERPRINT.search(process.stdout.decode(errors="replace"))
        if process.returncode or not fingerprint:
            raise ReleaseError(f"{tag} was altered after it was signed: its signature is invalid")
        key, allowed = fingerprint[0], ("-f", str(folder / "allowed"))
        principals = _ssh_keygen("-Y", "find-principals", *flags[2:], *allowed)
        for line in principals.stdout.decode(errors="replace").splitlines():
            name = line.split(",")[0]
            command = ("-Y", "verify", "-I", name, *allowed, *flags)
            if not _ssh_keygen(*command, stdin=payload).returncode:
                return key if name == "*" else f"{name} ({key})"
        raise ReleaseError(f"{tag} is signed by {key}, which is none of the keys in {self.file}")


def read_signers(name: str) -> Signers:
    """Read a public key, or git's allowed_signers; ReleaseError if the file has no public key."""
    file = Path(name)
    try:
        file = file.expanduser()
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError, RuntimeError):  # RuntimeError: no such user as in ~name
        raise ReleaseError(f"{file} is no readable file of public keys; give a KEY.pub") from None
    if any("PRIVATE KEY" in line for line in lines):
        raise ReleaseError(f"{file} is a private key; give its public one, KEY.pub")
    lines = [line for line in lines if line.strip() and not line.startswith("#")]
    if not lines or not all(" AAAA" in line for line in lines):  # the begin of any key
        raise ReleaseError(f"{file} has no public key, or lines without; give a KEY.pub")
    keys = (
        f'* namespaces="{_NAMESPACE}" {line}\n' if _is_public_key(line) else f"{line}\n"
        for line in lines
    )
    return Signers(file, "".join(keys))


def _read_tag(repo_folder: Path, tag: str) -> bytes:
    """Return the bytes of a tag, none if it is only the name of a commit."""
    ref = f"refs/tags/{tag}"
    if git.git("cat-file", "-t", ref, root=repo_folder) != "tag":
        return b""
    return git.git_bytes("cat-file", "tag", ref, root=repo_folder)


def _is_public_key(line: str) -> bool:
    words = line.split()
    return len(words) > 1 and words[1].startswith("AAAA")


def _ssh_keygen(*args: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run ssh-keygen without a terminal, on which it would ask for a passphrase."""
    env = os.environ | {"LC_ALL": "C", "SSH_ASKPASS_REQUIRE": "never"}
    command = ["ssh-keygen", *args]
    try:
        return subprocess.run(
            command, input=stdin, capture_output=True, env=env, start_new_session=True
        )
    except FileNotFoundError:
        raise ReleaseError(
            "ssh-keygen, which makes and checks signatures, is not installed; install "
            "openssh-client"
        ) from None
