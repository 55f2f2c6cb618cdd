"""The model that answers: names that may be loaded, what a loaded one says of itself, and the switch."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from factories import write_cascade_rule, write_onnx_model

from arxiv_cls.errors import UserError
from arxiv_cls.models import predictor
from arxiv_cls.record.files import file_sha256
from arxiv_cls.serving.endpoint import Endpoint, allowed_model, load_model
from arxiv_cls.serving.http_requests import Refused
from arxiv_cls.serving.schemas import CascadeInfo, describe
from arxiv_cls.serving.settings import ServingSettings

RELEASES = Path(__file__).resolve().parents[1] / "fixtures" / "releases" / "v0.1.0"


@pytest.mark.parametrize("name", ["user/all", "user/all@v2.0.0", "user/one@v1.0.0"])
def test_hub_ids_that_are_allowed(name):
    """Allowed without a revision: all of them; with one: that one."""
    assert allowed_model(name, None, ("user/all", "user/one@v1.0.0")) == name


@pytest.mark.parametrize(
    "name",
    [
        *("user/other", "user/one", "user/one@v2.0.0", "user/all/more"),
        # Revisions that anyone can make: commits and refs of pull requests.
        *(f"user/all@{revision}" for revision in ("refs/pr/1", "refs/convert/parquet", "0123abc", "a" * 40)),
        # A server of a Hub id has no directory to choose from.
        "good",
    ],
)
def test_hub_ids_that_are_not(name):
    """Everything that was not allowed by name."""
    with pytest.raises(Refused) as refused:
        allowed_model(name, None, ("user/all", "user/one@v1.0.0"))
    assert refused.value.status_code == 403
    if "@" in name:
        assert allowed_model(name, None, ("user/all", name)) == name


@pytest.mark.parametrize("name", ["user/all", "user/all@v1"])
def test_a_local_folder_with_the_name_of_a_hub_id(tmp_path, monkeypatch, name):
    """What lies in the working directory is not what was allowed."""
    (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Refused, match="local folder") as refused:
        allowed_model(name, None, ("user/all",))
    assert refused.value.status_code == 403


class TestLoadModel:
    """A directory of either kind becomes a served model."""

    def test_identity(self, tmp_path):
        """Name of the directory, and the sha256 of the very file that is computed with as its version."""
        settings = ServingSettings(model="x", threads=1)
        for seed in (0, 1):
            directory = write_onnx_model(tmp_path / str(seed) / "tiny", seed=seed)
            model = load_model(f"{directory}/", settings)
            sha256 = hashlib.sha256((directory / "onnx" / "model.onnx").read_bytes()).hexdigest()
            assert (model.name, model.weights_sha256, model.version) == ("tiny", sha256, sha256[:12])

    @pytest.mark.parametrize(
        ("named", "version"),
        [("", "0" * 12), ("@main", "0" * 12), ("@refs/pr/1", "0" * 12), ("@v1.2.0", "v1.2.0")],
    )
    def test_version_of_a_hub_model(self, tmp_path, monkeypatch, named, version):
        """A release tag stays what it is; a branch moves on, so the commit is the version."""
        snapshot = write_onnx_model(tmp_path / "snapshots" / ("0" * 40))
        monkeypatch.setattr(predictor, "locate_model", lambda model, revision, engine: snapshot)
        model = load_model(f"user/name{named}", ServingSettings(model="x", threads=1))
        assert (model.name, model.version) == ("user/name", version)

    def test_without_an_export(self, tmp_path):
        """The error names the command that makes one."""
        write_onnx_model(tmp_path / "tiny")
        (tmp_path / "tiny" / "onnx" / "model.onnx").unlink()
        with pytest.raises(UserError, match=r"onnx/model\.onnx") as refused:
            load_model(str(tmp_path / "tiny"), ServingSettings(model="x"))
        assert "arxiv-cls export" in str(refused.value)


class TestCascade:
    """Two models as one: both are named."""

    @pytest.fixture
    def pair(self, tmp_path):
        """A transformer, a baseline, and the record that joins them, fitted for fp32."""
        transformer, baseline = write_onnx_model(tmp_path / "tiny"), RELEASES / "tiny-tfidf"
        write_cascade_rule(transformer, baseline, threshold=0.6)
        return transformer, baseline

    def test_both_are_named(self, pair):
        """The version names both; the baseline has its own entry."""
        transformer, baseline = pair
        model = load_model(str(transformer), ServingSettings(model="x", cascade=str(baseline), threads=1))
        baseline_sha = file_sha256(baseline / "model.skops")
        assert model.version == f"{model.weights_sha256[:12]}+{baseline_sha[:12]}"
        info = describe(model, ServingSettings(model="x"))
        assert info.cascade == CascadeInfo(
            baseline="tiny-tfidf",
            baseline_version=baseline_sha[:12],
            baseline_sha=baseline_sha,
            threshold=0.6,
            max_tokens=16,
        )

    def test_the_engine_that_was_fitted(self, pair):
        """Taken where none is named; another one that is named is refused."""
        settings = ServingSettings(model="x", cascade=str(pair[1]), threads=1)
        assert load_model(str(pair[0]), settings).predictor.engine == "tfidf+onnx"
        (pair[0] / "onnx" / "model_int8.onnx").write_bytes((pair[0] / "onnx" / "model.onnx").read_bytes())
        with pytest.raises(UserError, match="fitted for the engine onnx, not int8"):
            load_model(str(pair[0]), settings.model_copy(update={"engine": "int8"}))

    def test_without_a_record(self, pair):
        """The engine that `arxiv-cls cascade` fits by default is the one that is asked for."""
        (pair[0] / "eval" / "cascade.json").unlink()
        with pytest.raises(UserError, match=r"onnx/model_int8\.onnx"):
            load_model(str(pair[0]), ServingSettings(model="x", cascade=str(pair[1])))


def test_one_switch_at_a_time():
    """A second switch during the first is refused; who hangs up does not stop the first."""
    go_on = threading.Event()

    def load(name, settings):
        assert go_on.wait(30)
        return SimpleNamespace(
            name=name, version="1", loaded_in=0.0, predictor=SimpleNamespace(engine="onnx")
        )

    async def test():
        endpoint = Endpoint(ServingSettings(model="m"), load)
        first = asyncio.ensure_future(endpoint.switch("first"))
        await asyncio.sleep(0)
        assert await endpoint.switch("second") is None
        first.cancel()
        await asyncio.sleep(0)
        go_on.set()
        while endpoint.model is None:
            await asyncio.sleep(0.01)
        assert endpoint.model.name == "first"

    asyncio.run(test())
