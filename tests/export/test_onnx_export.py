"""ONNX beside the weights: the graph, the export and its record, the predictors, the way without torch."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from factories import LABELS as TOP5
from factories import TEXTS, classifier

from arxiv_cls.cli import main
from arxiv_cls.errors import UserError
from arxiv_cls.export import onnx_export
from arxiv_cls.export.onnx_graph import write_onnx
from arxiv_cls.models.onnx_engine import OnnxEngine
from arxiv_cls.models.predictor import load_predictor

RELEASES = Path(__file__).resolve().parents[1] / "fixtures" / "releases" / "v0.1.0"
BLOCKED = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "transformers", "datasets", "wandb", "dvc", "onnx"}:
            raise ImportError(f"{name} is imported")
sys.meta_path.insert(0, Refuse())
"""


def copy_of(model: Path, folder: Path) -> Path:
    """A directory that a test may change."""
    return Path(shutil.copytree(model, folder))


class TestGraph:
    """What torch computes, in one file, for any batch and length."""

    @pytest.mark.parametrize("kind", ["bert", "distilbert"])
    def test_same_logits(self, kind: str, tiny_encoder: Path, tmp_path: Path) -> None:
        """Odd lengths, a batch of one, padding; one file; one attention per layer; the last on one token."""
        import onnx
        import torch

        model = classifier(kind, tiny_encoder)
        before = model.config._attn_implementation
        write_onnx(model, tmp_path / "model.onnx")
        assert model.config._attn_implementation == before
        assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
        graph = onnx.load(tmp_path / "model.onnx").graph
        operators = [node.op_type for node in graph.node]
        assert operators.count("MultiHeadAttention") == 2
        assert not {"Softmax", "LayerNormalization"} & set(operators)
        import onnxruntime

        session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
        generator = np.random.default_rng(0)
        for batch, length in [(1, 1), (1, 2), (1, 7), (3, 17), (2, 64)]:
            ids = generator.integers(5, 100, (batch, length))
            mask = np.ones_like(ids)
            mask[0, (length + 1) // 2 :] = 0
            (found,) = session.run(["logits"], {"input_ids": ids, "attention_mask": mask})
            with torch.inference_mode():
                given = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}
                expected = model(**given).logits.numpy()
            assert np.abs(found - expected).max() < 1e-4, (batch, length)

    def test_only_the_first_token_leaves_the_last_layer(self, exported: Path) -> None:
        """The last attention gets its query from one token, its keys from all."""
        import onnx

        graph = onnx.load(exported / "onnx" / "model.onnx").graph
        makers = {output: node for node in graph.node for output in node.output}
        last = [node for node in graph.node if node.op_type == "MultiHeadAttention"][-1]
        products = [makers[makers[name].input[0]] for name in last.input[:2]]
        assert [makers[product.input[0]].op_type == "Gather" for product in products] == [True, False]


class TestExport:
    """`arxiv-cls export` on a model with its data."""

    def test_files_and_record(self, exported: Path) -> None:
        """fp32 within 1e-4 of torch with every label equal; the record names weights, files and papers."""
        record = json.loads((exported / "onnx" / "parity.json").read_text())
        weights = hashlib.sha256((exported / "model.safetensors").read_bytes()).hexdigest()
        assert record["weights_sha256"] == weights
        assert set(record["exports"]) == {"onnx/model.onnx", "onnx/model_int8.onnx"}
        for path, entry in record["exports"].items():
            assert entry["sha256"] == hashlib.sha256((exported / path).read_bytes()).hexdigest()
            assert entry["max_difference"] <= entry["tolerance"]
            assert entry["papers"] == 40
        fp32 = record["exports"]["onnx/model.onnx"]
        assert (fp32["equal_labels"], fp32["tolerance"]) == (1.0, 1e-4)
        assert len(record["candidates"]) == 2
        names = {path.name for path in (exported / "onnx").iterdir()}
        assert names == {"model.onnx", "model_int8.onnx", "parity.json"}

    def test_every_engine_agrees(self, exported: Path) -> None:
        """Labels in order, truncation, one interface; int8 near, fp32 equal; texts are independent."""
        torch, onnx, int8 = (load_predictor(exported, engine=name) for name in ("torch", "onnx", "int8"))
        assert torch.labels == onnx.labels == TOP5
        assert [predictor.max_length for predictor in (torch, onnx, int8)] == [64] * 3
        reference = torch.predict_proba(TEXTS)
        assert np.abs(onnx.predict_proba(TEXTS) - reference).max() < 1e-4
        assert np.abs(int8.predict_proba(TEXTS) - reference).max() < 0.1
        alone = np.vstack([int8.predict_proba([text]) for text in TEXTS])
        assert np.array_equal(int8.predict_proba(TEXTS), alone)
        padded = onnx.session.probabilities([ids for ids, _ in onnx.session.tokenize(TEXTS)], 4096)
        assert np.abs(padded - reference).max() < 1e-4
        for predictor, name in ((torch, "torch"), (onnx, "onnx"), (int8, "int8")):
            said = predictor.predict(TEXTS, top_k=2)
            assert [entry.truncated for entry in said] == [False, True, False]
            assert {entry.answered_by for entry in said} == {name}
            assert all(len(entry.scores) == 2 for entry in said)
            encoded = predictor.encode(TEXTS)
            assert predictor.predict_encoded(encoded, top_k=2) == said
            assert [item.tokens for item in encoded][1] == 64
            with pytest.raises(UserError, match="text 2 of 2 is empty"):
                predictor.predict(["a paper", " \n"])
            assert predictor.predict_proba([]).shape == (0, 5)
        with pytest.raises(UserError, match="no embeddings"):
            onnx.embed(TEXTS)

    def test_tokenizer_of_whoever_saved_it(self, exported: Path, tmp_path: Path) -> None:
        """A tokenizer.json that cuts at 4 gives the same ids; no limit means the model's positions."""
        folder = copy_of(exported, tmp_path / "model")
        content = json.loads((folder / "tokenizer.json").read_text())
        settings = {"max_length": 4, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
        (folder / "tokenizer.json").write_text(json.dumps(content | {"truncation": settings}))
        assert OnnxEngine(folder).tokenize(TEXTS) == OnnxEngine(exported).tokenize(TEXTS)
        content = json.loads((folder / "tokenizer_config.json").read_text()) | {"model_max_length": int(1e30)}
        (folder / "tokenizer_config.json").write_text(json.dumps(content))
        assert OnnxEngine(folder).max_length == 128

    def test_without_torch(self, exported: Path) -> None:
        """Loading and scoring import neither torch nor transformers, nor what training needs."""
        code = (
            f"{BLOCKED}\nfrom arxiv_cls.models.predictor import load_predictor\n"
            f"for engine in ('onnx', 'int8'):\n"
            f"    print(load_predictor({str(exported)!r}, engine=engine).predict(['a paper'])[0].answered_by)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.split() == ["onnx", "int8"]

    def test_evaluate_keeps_the_weights_figures(self, exported: Path, tmp_path: Path, capsys) -> None:
        """An ONNX engine's figures are printed, or go where --out says; never into the model's eval/."""
        folder = copy_of(exported, tmp_path / "model")
        main(["evaluate", str(folder), "--engine", "onnx", "--out", str(tmp_path / "figures")])
        assert not (folder / "eval").exists()
        metrics = json.loads((tmp_path / "figures" / "metrics.json").read_text())
        assert metrics["engine"] == "onnx"
        exported_file = (folder / "onnx/model.onnx").read_bytes()
        assert metrics["weights_sha256"] == hashlib.sha256(exported_file).hexdigest()
        with pytest.raises(UserError, match="holds the evaluation"):
            main(["evaluate", str(folder), "--engine", "onnx", "--out", str(folder / "eval")])


class TestStale:
    """An export belongs to one file of weights."""

    def test_other_weights(self, exported: Path, tmp_path: Path) -> None:
        """Retrained weights beside an old export."""
        folder = copy_of(exported, tmp_path / "model")
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes() + b" ")
        with pytest.raises(UserError, match="exported from other weights"):
            load_predictor(folder, engine="onnx")

    def test_another_file(self, exported: Path, tmp_path: Path) -> None:
        """A file that was never measured is refused, also where the weights are not beside it."""
        folder = copy_of(exported, tmp_path / "model")
        (folder / "model.safetensors").unlink()
        load_predictor(folder, engine="onnx")
        shutil.copy(folder / "onnx" / "model.onnx", folder / "onnx" / "model_int8.onnx")
        with pytest.raises(UserError, match=r"is not the file that parity\.json was measured on") as refused:
            load_predictor(folder, engine="int8")
        assert "arxiv-cls export" in refused.value.hint

    def test_no_export(self, exported: Path, tmp_path: Path) -> None:
        """The missing file and the command that writes it are named; an unknown engine is refused."""
        folder = copy_of(exported, tmp_path / "model")
        (folder / "onnx" / "model_int8.onnx").unlink()
        with pytest.raises(UserError, match=r"no onnx/model_int8\.onnx.*\n.*arxiv-cls export"):
            load_predictor(folder, engine="int8")
        (folder / "onnx" / "model.onnx").write_bytes(b"not a graph")
        with pytest.raises(UserError, match=r"is not the file that parity\.json was measured on"):
            load_predictor(folder, engine="onnx")
        (folder / "onnx" / "parity.json").unlink()
        with pytest.raises(UserError, match="cannot be loaded"):
            load_predictor(folder, engine="onnx")
        with pytest.raises(UserError, match="no engine 'tensorrt'"):
            load_predictor(folder, engine="tensorrt")


class TestRefused:
    """What cannot be exported or measured is said before anything is written."""

    def test_no_papers(self, exported: Path, tmp_path: Path) -> None:
        """Without a recipe, or with data that is gone, int8 cannot be chosen; the way out is named."""
        folder = copy_of(exported, tmp_path / "model")
        recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
        recipe["data"]["csv"] = str(tmp_path / "gone.csv")
        (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        with pytest.raises(UserError, match=r"gone\.csv.*is not there(.|\n)*--no-int8"):
            main(["export", str(folder)])
        (folder / "recipe.yaml").unlink()
        with pytest.raises(UserError, match=r"no recipe\.yaml(.|\n)*--csv"):
            main(["export", str(folder)])

    def test_not_a_model(self, tmp_path: Path) -> None:
        """A Hub id or a missing folder, a count below one, a baseline."""
        for words, expected in (
            (["user/name"], "no such model directory"),
            ([str(tmp_path), "--papers", "0"], "greater than or equal to 1"),
            ([str(RELEASES / "tiny-tfidf")], "nothing to export"),
        ):
            with pytest.raises(UserError, match=expected):
                main(["export", *words])

    def test_graph_that_differs(self, exported: Path, tmp_path: Path, monkeypatch) -> None:
        """Scores beyond the tolerance: an error, and what was there stays as it was."""
        folder = copy_of(exported, tmp_path / "model")
        # The export that is there stands for one that torch's exporter got wrong.
        monkeypatch.setattr("arxiv_cls.export.onnx_graph.write_onnx", write_another_graph(exported))
        before = (folder / "onnx" / "parity.json").read_bytes()
        with pytest.raises(UserError, match="does not give torch's scores"):
            onnx_export.export_model(folder, papers=4)
        assert (folder / "onnx" / "parity.json").read_bytes() == before
        assert (folder / "onnx" / "model.onnx").is_file()


def write_another_graph(exported: Path):
    """A `write_onnx` that gives each label the score of another."""
    import onnx
    from onnx import numpy_helper

    def write(model, path: Path) -> None:
        graph = onnx.load(exported / "onnx" / "model.onnx")
        (last,) = [node for node in graph.graph.node if "logits" in node.output]
        (head,) = [weight for weight in graph.graph.initializer if weight.name == last.input[1]]
        head.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(head)[::-1].copy(), head.name))
        onnx.save(graph, path)

    return write
