"""What must not be published is found, is not printed, and ordinary records pass."""

from __future__ import annotations

import gzip
import io
import lzma
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from factories import make_model_dir

from arxiv_cls.record.directory import find_secrets, is_pickle, redact, secrets_in_files, unreadable
from arxiv_cls.record.manifest import files_in

# Put together here, so that no scanner takes this file for a leak.
SECRETS = {
    "Hugging Face token": "token: " + "hf_" + "AbCdEfGhIjKlMnOpQrStUvWx",
    "W&B key": "wandb_v1_" + "Ab1" * 12,
    "W&B key in a setting": "WANDB_API_KEY=" + "0123456789abcdef" * 2 + "01234567",
    "AWS access key": "aws AKIA" + "ABCDEFGHIJKLMNOP",
    "Google service account": '{"type": "service_account", "project_id": "x"}',
    "GitHub token": "ghp_" + "a1B2" * 10,
    "private key": "-----BEGIN RSA PRIVATE KEY-----",
    "OpenSSH key": "-----BEGIN OPENSSH PRIVATE KEY-----",
    "password in a URL": "postgres://" + "me:hunter22@db.example.org/x",
    "secret in a setting": "client_secret: " + "Zx81Qw92Er73Ty64",
}


class TestSecrets:
    """Patterns against samples of each kind."""

    @pytest.mark.parametrize("kind", SECRETS)
    def test_found_with_its_line_and_not_shown(self, kind: str) -> None:
        """The finding names file, line and kind; neither it nor a redacted text holds the value."""
        text = f"first line\n{SECRETS[kind]}\n"
        findings = find_secrets(text, "run.json")
        assert findings
        assert all(finding.line == 2 for finding in findings)
        value = SECRETS[kind].split()[-1].split("=")[-1]
        assert value not in str(findings[0])
        if kind not in ("Google service account", "private key", "OpenSSH key"):
            assert value not in redact(text)

    @pytest.mark.parametrize(
        "text",
        [
            '"sha256": "' + "0f" * 32 + '"',
            '"commit": "' + "ab" * 20 + '"',
            "https://huggingface.co/user/name",
            "run name: wandb offline",
            "hf_hub_download(repo_id)",
            "tokens: 256",
            "password: null",
            "learning_rate: 2.0e-05",
        ],
    )
    def test_ordinary_records_pass(self, text: str) -> None:
        """Hashes, commits, links and settings are no secrets."""
        assert not find_secrets(text, "x")

    def test_a_whole_model_directory_passes(self, tmp_path: Path) -> None:
        """What this project writes holds nothing that looks like one."""
        folder = make_model_dir(tmp_path / "model")
        assert secrets_in_files(folder, files_in(folder)) == []


def zipped(content: bytes, name: str) -> bytes:
    """A zip of one member."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return buffer.getvalue()


def array(values: np.ndarray) -> bytes:
    """A `.npy` file."""
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=True)
    return buffer.getvalue()


OBJECTS, NUMBERS = array(np.array([{}], dtype=object)), array(np.ones(3))
PROTOCOL_0 = b"cos\nsystem\n(S'touch x'\ntR."
# Its first bytes, the length of the header, are those of a pickle's protocol number.
SAFETENSORS = (0x0480).to_bytes(8, "little") + b"{}".ljust(0x0480)


class TestPickles:
    """Pickles are found by what they hold, under any name, and by a suffix that is theirs alone."""

    @pytest.mark.parametrize(
        "content",
        [
            *(pickle.dumps({"weights": [1.0]}, protocol=protocol) for protocol in (2, 3, 4, 5)),
            zipped(b"x", "archive/data.pkl"),
            OBJECTS,
            PROTOCOL_0,
            gzip.compress(PROTOCOL_0),
            lzma.compress(PROTOCOL_0),
            pickle.dumps([0] * 200_000),
            pickle.dumps(Path("x"), protocol=0),
            zipped(OBJECTS, "0.npy"),
            zipped(PROTOCOL_0, "archive/version"),
            zipped(zipped(PROTOCOL_0, "a"), "b"),
            zipped(zipped(zipped(zipped(zipped(b"", "a"), "b"), "c"), "d"), "e"),
        ],
        ids=range(15),
    )
    def test_found_by_content(self, tmp_path: Path, content: bytes) -> None:
        """Under any name, in arrays, in zips, and in what is packed too deep to be looked at."""
        (tmp_path / "file").write_bytes(content)
        assert is_pickle(tmp_path / "file")

    @pytest.mark.parametrize(
        "content",
        [
            NUMBERS,
            SAFETENSORS,
            zipped(NUMBERS, "0.npy"),
            zipped(zipped(b"{}", "a"), "b"),
            b"cat\ndog\n",
            zipped(b"{}", "schema.json"),
            b"{}",
            b"\x89PNG\r\n",
            b"",
        ],
        ids=range(9),
    )
    def test_not_found(self, tmp_path: Path, content: bytes) -> None:
        """Arrays of numbers, safe weights, text, an image, nothing."""
        (tmp_path / "file").write_bytes(content)
        assert not is_pickle(tmp_path / "file")

    def test_suffix_alone_is_enough(self, tmp_path: Path) -> None:
        """An old-protocol pickle that names no code is plain text."""
        path = tmp_path / "training_args.bin"
        path.write_bytes(b"(lp0\n.")
        assert is_pickle(path)

    def test_what_cannot_be_read(self, tmp_path: Path) -> None:
        """A zip that was cut short, or a link to nowhere, is no pickle; the reason is given."""
        whole, cut, lost = (tmp_path / name for name in ("whole.skops", "cut.skops", "lost.json"))
        whole.write_bytes(zipped(b"{}", "schema.json"))
        cut.write_bytes(whole.read_bytes()[:-10])
        lost.symlink_to(tmp_path / "none")
        assert not is_pickle(cut)
        assert not is_pickle(lost)
        assert "broken zip" in (unreadable(cut) or "")
        assert unreadable(lost) == "No such file or directory"
        assert unreadable(whole) is None
        assert secrets_in_files(tmp_path, ["lost.json"]) == []
