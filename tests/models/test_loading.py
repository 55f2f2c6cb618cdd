"""Where weights come from, and what is said when they do not."""

import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from arxiv_cls.errors import UserError
from arxiv_cls.models.loading import resolve_pretrained, write_local_distilbert
from arxiv_cls.models.predictor import load_predictor
from arxiv_cls.recipe import TransformerModelConfig
from arxiv_cls.training import fine_tuning

RELEASES = Path(__file__).resolve().parents[1] / "fixtures" / "releases" / "v0.1.0"


class TestResolve:
    """Directory, package, Hub."""

    def test_directory(self, tiny_encoder):
        """With and without a trailing slash."""
        assert resolve_pretrained(str(tiny_encoder)) == resolve_pretrained(f"{tiny_encoder}/") == tiny_encoder

    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            (str(RELEASES), "no config.json"),
            ("./nowhere", "no such directory"),
            ("a/b/c", "no such directory"),
            ("package:no_such_package/model", "is not installed"),
            ("package:json/../x", "write package:NAME/FOLDER"),
            ("package:yaml/model", "has no model in the folder"),
            ("not a name", "neither a directory nor a Hub id"),
        ],
    )
    def test_refused(self, name, expected):
        """One error each, in words."""
        with pytest.raises(UserError, match=expected):
            resolve_pretrained(name)

    def test_no_hub(self, run_python, tmp_path):
        """An endpoint that refuses connections: one line, exit code 3, what to pass; without torch."""
        done = run_python(
            "-c",
            "import sys; sys.modules['torch'] = None; from arxiv_cls.errors import run_main; "
            "from arxiv_cls.models.predictor import load_predictor; "
            "run_main(lambda argv: load_predictor('user/name', engine='onnx'))",
            env={"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)},
        )
        assert done.returncode == 3
        assert done.stderr.strip().splitlines()[-1].startswith("error: the model user/name cannot be reached")
        assert "pass a directory with a model instead" in done.stderr
        assert "Traceback" not in done.stderr


class TestNewHead:
    """A classifier to start from keeps its head for its own labels in their own order."""

    @pytest.mark.parametrize("kept", [True, False])
    def test_permuted_labels(self, kept: bool, tiny_encoder: Path, tmp_path: Path) -> None:
        """What counts is the number of each label, not the order in which the file names them."""
        names = {1: "cs.CL", 0: "cs.AI"} if kept else {1: "cs.AI", 0: "cs.CL"}
        model = AutoModelForSequenceClassification.from_pretrained(
            tiny_encoder, id2label=names, label2id={name: number for number, name in names.items()}
        )
        model.save_pretrained(tmp_path)
        settings = TransformerModelConfig(str(tmp_path))
        started = fine_tuning.load_classifier(settings, tmp_path, ["cs.AI", "cs.CL"])
        assert torch.equal(started.classifier.weight, model.classifier.weight) is kept
        assert started.config.id2label == {0: "cs.AI", 1: "cs.CL"}


class TestLocalDistilbert:
    """The same hidden states under other names."""

    def test_same_hidden_states(self, tiny_encoder, tmp_path):
        """BERT and the DistilBERT made of it agree on a padded batch; a directory in use is left alone."""
        out = write_local_distilbert(tmp_path / "distilbert", str(tiny_encoder))
        batch = AutoTokenizer.from_pretrained(tiny_encoder)(
            ["a synthetic paper on learning", "short"], padding=True, return_tensors="pt"
        )
        batch.pop("token_type_ids", None)
        with torch.no_grad():
            ours = AutoModel.from_pretrained(out).eval()(**batch).last_hidden_state
            theirs = AutoModel.from_pretrained(tiny_encoder).eval()(**batch).last_hidden_state
        kept = batch["attention_mask"].bool()
        assert torch.allclose(ours[kept], theirs[kept], atol=1e-5)
        with pytest.raises(UserError, match="already exists"):
            write_local_distilbert(tmp_path, str(tiny_encoder), overwrite=True)


class TestHubCache:
    """A snapshot of the Hub's cache is made of links to the blobs beside it."""

    def test_links_within_the_repository(self, tmp_path: Path) -> None:
        """They are followed; one that leads to another repository is not."""
        repository = tmp_path / "models--user--name"
        snapshot, blobs = repository / "snapshots" / ("c" * 40), repository / "blobs"
        snapshot.mkdir(parents=True)
        blobs.mkdir()
        for file in (RELEASES / "tiny-transformer").iterdir():
            if file.is_file():
                shutil.copy(file, blobs / file.name)
                (snapshot / file.name).symlink_to(f"../../blobs/{file.name}")
        assert load_predictor(snapshot).predict(["a text"])
        assert resolve_pretrained(str(snapshot)) == snapshot
        (tmp_path / "models--user--other").mkdir()
        (tmp_path / "models--user--other" / "blob").write_text("{}")
        (snapshot / "added_tokens.json").symlink_to("../../../models--user--other/blob")
        with pytest.raises(UserError, match=r"added_tokens\.json: is a link that leads out"):
            load_predictor(snapshot)
