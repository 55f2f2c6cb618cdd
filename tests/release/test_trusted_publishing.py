"""Releases from CI with no stored token: the job's identity is exchanged for a token of one repository."""

from __future__ import annotations

import json
from typing import Any

import pytest
from factories import make_model_dir
from huggingface_hub import HfApi
from huggingface_hub.utils import _auth
from local_hub import TOKEN, LocalHub, Refused

from arxiv_cls.errors import UserError
from arxiv_cls.release.push_model import push_model

REPO = "user/arxiv-tiny"
ID_TOKEN = "the-job-s-identity"


@pytest.fixture
def exchanges(hub: LocalHub, monkeypatch) -> list[dict]:
    """A job of GitHub's that may ask for its identity, on a Hub that trusts it for one repository.

    Yields the exchanges that the Hub was asked for. The repository is there already: trust is its setting.
    """
    asked: list[dict] = []

    def identity(headers: Any, body: bytes) -> dict:
        assert headers["Authorization"] == "Bearer of-this-job"
        return {"value": ID_TOKEN}

    def exchange(headers: Any, body: bytes) -> dict:
        asked.append(json.loads(body))
        if (asked[-1]["resource"], asked[-1]["subject_token"]) != (REPO, ID_TOKEN):
            raise Refused(403, message="not trusted")
        return {"access_token": TOKEN, "token_type": "bearer", "expires_in": 3600}

    def whoami(headers: Any, body: bytes) -> None:
        raise Refused(403, message="this token is nobody's")

    HfApi(endpoint=hub.url, token=TOKEN).create_repo(REPO)
    hub.routes |= {"/identity": identity, "/oauth/token": exchange, "/api/whoami-v2": whoami}
    monkeypatch.setattr(_auth, "_OIDC_TOKEN_CACHE", None)
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_URL", f"{hub.url}/identity")
    monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "of-this-job")
    monkeypatch.setenv("HF_OIDC_RESOURCE", REPO)
    return asked


class TestTrustedPublishing:
    """HF_OIDC_RESOURCE is all that a workflow sets."""

    def test_a_release_without_a_stored_token(self, exchanges, hub, tmp_path):
        """One exchange, then the release goes as with any other token."""
        outcome = push_model(make_model_dir(tmp_path / "model"), REPO, version="v1.0.0")
        assert outcome.release.state == "released"
        assert list(hub.repository(REPO).tags) == ["v1.0.0"]
        assert [exchange["resource"] for exchange in exchanges] == [REPO]

    def test_a_repository_that_does_not_trust_the_job(self, exchanges, hub, tmp_path, monkeypatch):
        """The Hub refuses the exchange: nothing is pushed, and no identity is printed."""
        monkeypatch.setenv("HF_OIDC_RESOURCE", "user/other")
        with pytest.raises(UserError) as caught:
            push_model(make_model_dir(tmp_path / "model"), REPO, version="v1.0.0")
        assert "getting a token" in str(caught.value)
        assert ID_TOKEN not in str(caught.value)
        assert not hub.repository(REPO).tags

    def test_a_job_that_may_not_ask(self, exchanges, tmp_path, monkeypatch):
        """Without `id-token: write` there is no identity: the permission is named."""
        monkeypatch.delenv("ACTIONS_ID_TOKEN_REQUEST_URL")
        with pytest.raises(UserError, match="trusted publishing") as caught:
            push_model(make_model_dir(tmp_path / "model"), REPO, version="v1.0.0")
        assert "id-token: write" in caught.value.hint
