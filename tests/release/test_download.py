"""`arxiv-cls download`: a model of W&B, from a server on loopback, and one of the Hub."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from factories import ROOT
from local_wandb import LocalWandb
from wandb.sdk.lib import wbauth

from arxiv_cls.errors import UserError
from arxiv_cls.models.predictor import load_predictor
from arxiv_cls.record.files import file_sha256
from arxiv_cls.record.manifest import files_in
from arxiv_cls.release.download import download_model

MODEL = ROOT / "tests/fixtures/releases/v0.1.0/tiny-tfidf"
SOURCE = "wandb:entity/project/tiny:best"
CHECKSUMS = {path: file_sha256(MODEL / path) for path in files_in(MODEL)}


@pytest.fixture
def serve(monkeypatch):
    """Starts the server with the files of a model, some of them changed."""
    servers = []

    def start(metadata: dict, **changed: bytes) -> LocalWandb:
        files = {path: (MODEL / path).read_bytes() for path in CHECKSUMS} | changed
        servers.append(LocalWandb("tiny", files, metadata).__enter__())
        monkeypatch.setenv("WANDB_BASE_URL", servers[-1].url)
        monkeypatch.setenv("WANDB_API_KEY", "0123456789" * 4)
        monkeypatch.delenv("WANDB_MODE")
        return servers[-1]

    yield start
    for server in servers:
        server.__exit__()


class TestWandb:
    """An artifact of type model."""

    @pytest.mark.parametrize("key", ["in the environment", "in .env"])
    def test_the_model_answers(self, serve, tmp_path, monkeypatch, key):
        """Every file comes, and the model gives a label."""
        server = serve({"checksums": CHECKSUMS})
        if key == "in .env":
            wbauth.unauthenticate_session()  # it keeps the key that it found
            monkeypatch.chdir(tmp_path)
            (tmp_path / ".env").write_text(f"WANDB_API_KEY={os.environ['WANDB_API_KEY']}\n")
            monkeypatch.delenv("WANDB_API_KEY")
        folder = download_model(SOURCE, tmp_path / "model")
        assert "FetchArtifactManifest" in server.asked
        assert {path: file_sha256(folder / path) for path in files_in(folder)} == CHECKSUMS
        assert load_predictor(folder).predict(["Parsing with encoders"])[0].label

    @pytest.mark.parametrize(
        ("metadata", "changed", "reason"),
        [
            ({"checksums": CHECKSUMS}, {"run.json": b"{}"}, "not as recorded: run.json"),
            ({"checksums": CHECKSUMS}, {"notes.txt": b"x"}, "not as recorded: notes.txt"),
            ({}, {}, "has no checksums"),
        ],
    )
    def test_other_files_are_refused(self, serve, tmp_path, metadata, changed, reason):
        """Nothing stays behind."""
        serve(metadata, **changed)
        with pytest.raises(UserError, match=reason):
            download_model(SOURCE, tmp_path / "model")
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        ("source", "reason"),
        [
            ("wandb:tiny", "names no artifact"),
            ("tiny", "not a repository id"),
            ("wandb:entity/other/tiny:v9", "cannot be downloaded: project 'other' not found"),
        ],
    )
    def test_one_message(self, serve, tmp_path, source, reason):
        """For a name that is none, and one that the server does not know."""
        serve({}).replies["ArtifactMembershipByName"] = {"project": None}
        with pytest.raises(UserError, match=reason):
            download_model(source, tmp_path / "model")


def test_from_the_hub(monkeypatch, tmp_path, caplog):
    """Its files are copied out of the cache, and compared with the records; a directory is not replaced."""
    from arxiv_cls.release import download

    release = tmp_path / "cache"
    shutil.copytree(MODEL, release)
    monkeypatch.setattr(download, "connect", lambda write: None)
    monkeypatch.setattr(download, "download_release", lambda api, repo_id, version: release)
    monkeypatch.chdir(tmp_path)
    assert download_model("user/tiny@v0.1.0") == Path("outputs/tiny")
    assert files_in(tmp_path / "outputs/tiny") == sorted(CHECKSUMS)
    assert "no checksum on record, as in older releases: eval/metrics.json" in caplog.text
    with pytest.raises(UserError, match="is there already"):
        download_model("user/tiny@v0.1.0")
    (release / "eval/metrics.json").unlink()
    with pytest.raises(UserError, match=r"not as recorded: .* \(on no record\)"):
        download_model("user/tiny@v0.1.0", "other")
    assert not Path("other").exists()
