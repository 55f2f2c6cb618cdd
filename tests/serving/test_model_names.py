"""Names that POST /load may and may not load."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from arxiv_cls.serving.http_errors import Refused
from arxiv_cls.serving.model_names import allowed_model


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
