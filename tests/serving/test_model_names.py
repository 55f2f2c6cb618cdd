"""Names that POST /load may and may not load."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import pytest

from arxiv_cls.serving import model_slot as model_names
from arxiv_cls.serving.http_errors import Refused
from arxiv_cls.serving.model_slot import allowed_model


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A directory with a model, and much that is none beside it."""
    root = tmp_path / "models"
    for directory in (root / "good" / "eval", tmp_path / "outside"):
        directory.mkdir(parents=True)
        (directory / "config.json").write_text("{}")
    (root / "link-out").symlink_to(tmp_path / "outside")
    (root / "link-in").symlink_to(root / "good")
    (root / "part-out").mkdir()
    (root / "part-out" / "config.json").symlink_to(tmp_path / "outside" / "config.json")
    (root / "pickled").mkdir()
    (root / "pickled" / "weights.safetensors").write_bytes(pickle.dumps({"a": 1}))
    (root / "broken").mkdir()
    (root / "broken" / "model.skops").write_bytes(b"PK\x03\x04 the rest of it is missing")
    (root / "model.pkl").write_bytes(pickle.dumps(1))
    return root


class TestAllowed:
    """A folder of the models directory, or an allowed Hub id."""

    def test_a_model_of_the_directory(self, models):
        """By its name; a link to a sibling counts as the sibling."""
        assert allowed_model("good", models, ()) == str((models / "good").resolve())
        assert allowed_model("link-in", models, ()) == str((models / "good").resolve())

    def test_hub_ids(self):
        """Allowed without a revision: all of them; with one: that one."""
        allowed = ("user/all", "user/one@v1.0.0")
        for name in ("user/all", "user/all@v2.0.0", "user/one@v1.0.0"):
            assert allowed_model(name, None, allowed) == name

    @pytest.mark.parametrize("revision", ["refs/pr/1", "refs/convert/parquet", "0123abc", "a" * 40])
    def test_revisions_that_anyone_can_make(self, revision):
        """Commits and refs of pull requests are refused unless they were allowed by name."""
        name = f"user/all@{revision}"
        with pytest.raises(Refused, match="allowed by name") as refused:
            allowed_model(name, None, ("user/all",))
        assert refused.value.status == 403
        assert allowed_model(name, None, ("user/all", name)) == name

    @pytest.mark.parametrize("name", ["user/all", "user/all@v1"])
    def test_a_local_folder_of_that_name(self, tmp_path, monkeypatch, name):
        """What lies in the working directory is not what was allowed."""
        (tmp_path / name).mkdir(parents=True)
        monkeypatch.chdir(tmp_path)
        with pytest.raises(Refused, match="local folder") as refused:
            allowed_model(name, None, ("user/all",))
        assert refused.value.status == 403

    @pytest.mark.parametrize("name", ["user/other", "user/one", "user/one@v2.0.0", "user/all/more"])
    def test_other_hub_ids(self, models, name):
        """Everything that was not allowed by name."""
        with pytest.raises(Refused) as refused:
            allowed_model(name, models, ("user/all", "user/one@v1.0.0"))
        assert refused.value.status == 403


class TestRefused:
    """What leads out, or could run code."""

    @pytest.mark.parametrize(
        "name",
        [
            "..", ".", "../outside", "good/../../outside", "/etc", "~", "./good", "good/", "good\\..", "",
            "good\0", "good\n", "link-out", "part-out", "pickled", "model.pkl", "package:os/x", "-rf",
            "%2e%2e",
        ],
    )  # fmt: skip
    def test_forbidden(self, models, name):
        """403, and nothing was read but the names."""
        with pytest.raises(Refused) as refused:
            allowed_model(name, models, ("user/all",))
        assert refused.value.status == 403

    def test_absolute_path_to_the_model_itself(self, models):
        """A path is refused also when it leads to a model that its name may load."""
        with pytest.raises(Refused) as refused:
            allowed_model(str(models / "good"), models, ())
        assert refused.value.status == 403

    def test_a_file_that_cannot_be_read(self, models, monkeypatch):
        """424, as for every model that cannot be loaded; also when the check itself breaks on it."""

        def breaks(path):
            raise zipfile.BadZipFile("File is not a zip file")

        monkeypatch.setattr(model_names, "is_pickle", breaks)
        with pytest.raises(Refused, match=r"broken: model\.skops cannot be read") as refused:
            allowed_model("broken", models, ())
        assert refused.value.status == 424

    def test_not_there(self, models):
        """404: the name would be allowed."""
        with pytest.raises(Refused) as refused:
            allowed_model("missing", models, ())
        assert refused.value.status == 404

    def test_without_a_directory(self):
        """A server of a Hub id has no directory to choose from."""
        with pytest.raises(Refused, match="--models-dir") as refused:
            allowed_model("good", None, ())
        assert refused.value.status == 403
