"""Models from somebody else, hostile or damaged: nothing of them runs, each ends in one clear error."""

from __future__ import annotations

import io
import json
import pickle
import re
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skops.io
from factories import LABELS, write_onnx_model

from arxiv_cls import cli, train
from arxiv_cls.errors import UserError
from arxiv_cls.models.predictor import load_predictor
from arxiv_cls.record.directory import read_model_directory
from arxiv_cls.serving.endpoint import load_model
from arxiv_cls.serving.http_requests import Refused
from arxiv_cls.serving.settings import ServingSettings
from arxiv_cls.space.predictions import load_space_model

ROOT = Path(__file__).resolve().parents[2]
RELEASES = ROOT / "tests" / "fixtures" / "releases" / "v0.1.0"
MARKER = "hostile-code-ran"


class Touch:
    """Makes the marker when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


def change(path: Path, **changes: Any) -> None:
    """Replaces keys of a JSON file; None takes a key away."""
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def own_code(model: Path, marker: Path, file: str, **auto_map: Any) -> None:
    """A module that makes the marker, named by one of the model's records."""
    (model / "own.py").write_text(
        f"import pathlib\npathlib.Path({str(marker)!r}).touch()\n"
        "from transformers import BertConfig as Config, BertForSequenceClassification as Model\n"
        "from transformers import BertTokenizerFast as Tokenizer\n"
    )
    change(model / file, auto_map=auto_map)


def code_of_the_model(model: Path, marker: Path) -> None:
    """As the Hub's custom models name it; transformers does not know the type."""
    classes = {"AutoConfig": "own.Config", "AutoModelForSequenceClassification": "own.Model"}
    own_code(model, marker, "config.json", **classes)
    change(model / "config.json", model_type="own")


def code_of_the_tokenizer(model: Path, marker: Path) -> None:
    """A slow and a fast class."""
    own_code(model, marker, "tokenizer_config.json", AutoTokenizer=["own.Tokenizer", "own.Tokenizer"])


def pickled(name: str, protocol: int = 4) -> Callable[[Path, Path], Any]:
    """A pickle under this name, which may be that of safe weights."""
    return lambda model, marker: (model / name).write_bytes(pickle.dumps(Touch(marker), protocol))


def instead_of_weights(name: str, content: str) -> Callable[[Path, Path], Any]:
    """Another file than `model.safetensors`."""

    def hostile(model: Path, marker: Path) -> None:
        (model / "model.safetensors").unlink(missing_ok=True)
        (model / name).write_bytes(content.encode() or pickle.dumps(Touch(marker)))

    return hostile


def pickle_in_an_array(model: Path, marker: Path) -> None:
    """An array of objects."""
    np.save(model / "idf.npy", np.array([Touch(marker)], dtype=object), allow_pickle=True)


def link_out(model: Path, marker: Path) -> None:
    """A file from outside under a harmless name."""
    (model.parent / "secret").write_text("secret")
    (model / "notes.txt").symlink_to(model.parent / "secret")


CONFIG, TOKENIZER, RUN, METRICS = "config.json", "tokenizer_config.json", "run.json", "eval/metrics.json"
SHARD, ADAPTER = '{"weight_map": {"bert.x": "../shard.bin"}}', '{"base_model_name_or_path": "user/other"}'
TORCH: dict[str, tuple[Callable[[Path, Path], Any], str]] = {
    "code of the model": (code_of_the_model, "auto_map"),
    "code of the tokenizer": (code_of_the_tokenizer, "auto_map"),
    "old checkpoint": (instead_of_weights("pytorch_model.bin", ""), "is a pickle"),
    "renamed pickle": (pickled("model.safetensors", protocol=0), "is a pickle"),
    "what the Trainer leaves": (pickled("training_args.bin"), "is a pickle"),
    "array of objects": (pickle_in_an_array, "is a pickle"),
    "shard that is a pickle": (instead_of_weights("model.safetensors.index.json", SHARD), "weight_map"),
    # peft would load the model that it names; transformers would download and run the kernel.
    "adapter": (lambda model, marker: (model / "adapter_config.json").write_text(ADAPTER), "adapter"),
    "kernel": (
        lambda model, marker: change(model / "config.json", attn_implementation="user/kernel"),
        "kernel",
    ),
    # transformers would name each of them.
    "countless labels": (
        lambda model, marker: change(model / "config.json", num_labels=10**9, id2label=None),
        "num_labels",
    ),
    "link out": (link_out, "leads out of the model"),
}


def serve(model: Path, engine: str) -> None:
    """As `arxiv-cls serve` and `POST /load` load a model."""
    load_model(str(model), ServingSettings(model="x", threads=1, engine=engine))


TORCH_ENTRIES: dict[str, Callable[[Path], Any]] = {
    "predict": lambda model: cli.main(["predict", str(model), "text"]),
    "evaluate": lambda model: cli.main(["evaluate", str(model)]),
    "export": lambda model: cli.main(["export", str(model), "--no-int8"]),
    "verify": lambda model: cli.main(
        ["verify", str(model), "--csv", str(ROOT / "data/sample/arxiv_sample.csv")]
    ),
    "serve": lambda model: serve(model, "torch"),
    "space": lambda model: load_space_model(str(model)),
}


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What hostile code would make; whoever is asked something answers yes."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 100))
    return tmp_path / MARKER


def refused(entry: Callable[[Path], Any], model: Path, expected: str, marker: Path) -> None:
    """One error that says what is expected, and nothing has run."""
    with pytest.raises((UserError, Refused), match=expected):
        entry(model)
    assert not marker.exists()


class TestTorch:
    """A directory of transformers."""

    @pytest.mark.parametrize("entry", TORCH_ENTRIES)
    @pytest.mark.parametrize(("hostile", "expected"), TORCH.values(), ids=TORCH)
    def test_refused(self, tmp_path, marker, hostile, expected, entry):
        """By every command that loads a model."""
        model = tmp_path / "models" / "m"
        shutil.copytree(RELEASES / "tiny-transformer", model)
        hostile(model, marker)
        refused(TORCH_ENTRIES[entry], model, expected, marker)

    @pytest.mark.parametrize(("hostile", "expected"), TORCH.values(), ids=TORCH)
    def test_training_start(self, tmp_path, marker, hostile, expected, tiny_encoder, write_recipe):
        """`model.name_or_path` is a directory of somebody else."""
        shutil.copytree(tiny_encoder, tmp_path / "encoder")
        hostile(tmp_path / "encoder", marker)
        recipe = write_recipe(
            tmp_path / "recipe.yaml",
            model={"name_or_path": str(tmp_path / "encoder")},
            trainer={"output_dir": str(tmp_path / "out")},
        )
        refused(lambda _: train.main([str(recipe)]), tmp_path, expected, marker)


def external(location: str) -> Callable[[Path, Path], None]:
    """Weights that stand in another file."""

    def hostile(model: Path, marker: Path) -> None:
        import onnx

        graph = onnx.load(str(model / "onnx" / "model.onnx"))
        weights = next(one for one in graph.graph.initializer if one.name == "rows")
        (model.parent / "outside.bin").write_bytes(weights.raw_data)
        (model / "onnx" / "inside.bin2").write_bytes(weights.raw_data)
        weights.ClearField("raw_data")
        weights.data_location = onnx.TensorProto.EXTERNAL
        weights.external_data.add(key="location", value=location.format(model.parent))
        (model / "onnx" / "model.onnx").write_bytes(graph.SerializeToString())

    return hostile


SIX = [*LABELS, "cs.IR"]
SIX_LABELS = {
    "id2label": {str(number): label for number, label in enumerate(SIX)},
    "label2id": {label: number for number, label in enumerate(SIX)},
    "num_labels": 6,
}
ONNX = {
    external("inside.bin2"): "cannot be loaded",
    external("../../outside.bin"): "cannot be loaded",
    external("{}/outside.bin"): "cannot be loaded",
    lambda model, marker: change(model / CONFIG, **SIX_LABELS): "5 logits, config.json names 6 labels",
    pickled("training_args.bin"): "is a pickle",
    link_out: "leads out of the model",
    code_of_the_tokenizer: "auto_map",
}


@pytest.mark.parametrize(
    "entry",
    [
        lambda model: cli.main(["predict", str(model), "text", "--engine", "onnx"]),
        lambda model: serve(model, "onnx"),
        lambda model: load_space_model(str(model)),
    ],
    ids=["predict", "serve", "space"],
)
@pytest.mark.parametrize(("hostile", "expected"), ONNX.items(), ids=range(len(ONNX)))
def test_refused_export(tmp_path, marker, hostile, expected, entry):
    """No other file is read for it, wherever it lies."""
    model = write_onnx_model(tmp_path / "models" / "m")
    hostile(model, marker)
    refused(entry, model, expected, marker)


def rewritten(model: Path, **changes: Any) -> None:
    """The baseline's weights with other parts."""
    state = skops.io.load(model / "model.skops", trusted=[]) | changes
    skops.io.dump(state, model / "model.skops")


def bomb(model: Path) -> None:
    """A small file that unpacks to 300 MB."""
    with zipfile.ZipFile(model / "model.skops", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("0.npy", bytes(300_000_000))


BASELINES = {
    lambda model: rewritten(model, trap=Touch(model)): "could run code: .*Touch",
    bomb: "300,000,000 bytes in a file of .* it was not read",
    lambda model: change(model / CONFIG, **SIX_LABELS): "labels, and those of config.json",
    lambda model: change(model / CONFIG, features=7): "features of config.json",
    lambda model: rewritten(model, labels=["cs.AI"] * 5): "labels, and those",
    lambda model: rewritten(model, temperature=-1.0): "temperature above 0",
    lambda model: rewritten(model, components=np.ones((2, 3))): "columns of the components",
    lambda model: rewritten(model, linear={"weights": np.ones((2, 2))}): "does not hold a baseline",
    lambda model: rewritten(model, terms=3): "does not hold a baseline",
    lambda model: rewritten(model, trees=np.frombuffer(b"no trees", dtype=np.uint8)): "not hold a baseline",
}


@pytest.mark.parametrize(("hostile", "expected"), BASELINES.items(), ids=range(len(BASELINES)))
def test_refused_baseline(tmp_path, hostile, expected):
    """What could run code, what is far too large, and what does not fit its own records."""
    shutil.copytree(RELEASES / "tiny-tfidf", tmp_path / "m")
    hostile(tmp_path / "m")
    with pytest.raises(UserError, match=expected):
        load_predictor(tmp_path / "m")


def labels(*names: Any) -> dict[str, Any]:
    """A map of labels, as the changes of `config.json` that it needs."""
    return {"id2label": {str(at): name for at, name in enumerate(names)}, "label2id": None}


SETS, SCOPE = "eval/prediction_sets.json", "eval/scope.json"
RECORDS = [
    *((CONFIG, whole, "expected an object, found") for whole in ("[]", "null", '"a"')),
    (TOKENIZER, "[]", "expected an object, found"),
    (CONFIG, "{", "not JSON"),
    (CONFIG, "[" * 100_000, "not JSON"),
    (CONFIG, b"\xff\xfe{}", "not JSON"),
    (CONFIG, {"id2label": None}, "id2label: Field required"),
    (CONFIG, {"id2label": ["a", "b"]}, "id2label: Input should be a valid dictionary"),
    (CONFIG, {"id2label": {"0": "a", "2": "b"}}, 'expected the keys "0" to "1"'),
    (CONFIG, labels(1, 2), "id2label.0: Input should be a valid string"),
    (CONFIG, labels("a", "a"), "every label once"),
    (CONFIG, labels("a", "../../x"), "a label is 1 to 64 letters"),
    (CONFIG, labels("a", "<b>x</b>"), "a label is 1 to 64 letters"),
    (CONFIG, labels("a", "=1+1"), "a label is 1 to 64 letters"),
    (CONFIG, labels("a", "x" * 65), "a label is 1 to 64 letters"),
    (CONFIG, labels("a", "b\n"), "a label is 1 to 64 letters"),
    (CONFIG, {"label2id": {"cs.AI": 4}}, "the inverse of id2label"),
    (CONFIG, {"num_labels": 1_000_000_000}, "num_labels: Input should be less than or equal to 5000"),
    (CONFIG, labels(*map(str, range(5001))), "id2label: Dictionary should have at most 5000"),
    (CONFIG, {"num_labels": 4}, "num_labels: expected 5"),
    (CONFIG, {"hidden_size": "abc"}, "hidden_size: Input should be a valid integer"),
    (CONFIG, {"hidden_size": 0}, "hidden_size: Input should be greater"),
    (CONFIG, {"hidden_size": -16}, "hidden_size: Input should be greater"),
    (CONFIG, {"num_hidden_layers": 100_000}, "num_hidden_layers: Input should be less"),
    (CONFIG, {"vocab_size": 10**12}, "vocab_size: Input should be less"),
    (CONFIG, {"vocab_size": 100}, "not a text classifier|tokens"),
    (CONFIG, {"num_hidden_layers": 2}, "its weights lack"),
    (CONFIG, {"hidden_size": 65_536}, "config.json describes [0-9,]+ parameters"),
    (CONFIG, {"intermediate_size": 64}, "not a text classifier"),
    (CONFIG, {"quantization_config": {"quant_method": "x"}}, "only plain safetensors"),
    (TOKENIZER, {"model_max_length": 1}, "model_max_length: Input should be greater than or equal to 3"),
    (TOKENIZER, {"model_max_length": 900_000}, "model_max_length: expected at most 64"),
    (TOKENIZER, {"model_max_length": "long"}, "model_max_length: Input should be a valid number"),
    ("tokenizer.json", "{}", "its tokenizer cannot be loaded"),
    ("model.safetensors", b"\x08\0\0\0\0\0\0\0{}      ", "not a text classifier"),
    (SETS, {"levels": []}, "levels: Input should be a valid dictionary"),
    (SETS, {"levels": {"0.9": {"threshold": "low"}}}, "threshold: Input should be a valid number"),
    (SCOPE, '{"schema_version": 1, "threshold": 0.5}', "expected `weights` and `intercept`"),
    (SCOPE, '{"schema_version": 1, "threshold": NaN}', "threshold: Input should be a finite number"),
]  # fmt: skip
RELEASE_RECORDS = [
    (RUN, {"data": []}, "data: Input should be a valid dictionary"),
    (RUN, {"metrics": []}, "metrics: Input should be a valid dictionary"),
    (RUN, "[]", "expected an object"),
    (METRICS, {"metrics": []}, "metrics: Input should be a valid dictionary"),
    (METRICS, {"papers": -1}, "papers: Input should be greater"),
    (METRICS, {"resamples": 10**12}, "resamples: Input should be less"),
    (METRICS, {"intervals": {"accuracy": [0.1]}}, "intervals.accuracy: List should have at least 2"),
    ("recipe.yaml", "- a", "expected an object"),
    ("recipe.yaml", "data: [", "not YAML"),
    ("recipe.yaml", "data: 3", "data: Input should be a valid dictionary"),
    ("release.yaml", "tags: x", "tags: Input should be a valid list"),
]


def damaged(folder: Path, file: str, content: Any) -> Path:
    """A copy of a released model with one other file."""
    shutil.copytree(RELEASES / "tiny-transformer", folder)
    if isinstance(content, dict):
        change(folder / file, **content)
    else:
        (folder / file).write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


class TestRecords:
    """Damaged or contradicting records: the file and the field are named, nothing is computed."""

    @pytest.mark.parametrize(("file", "content", "expected"), RECORDS, ids=range(len(RECORDS)))
    def test_of_a_model_that_is_loaded(self, tmp_path, file, content, expected):
        """Said when it is loaded, not when it is asked."""
        with pytest.raises(UserError, match=expected) as said:
            load_predictor(damaged(tmp_path / "m", file, content))
        assert str(tmp_path / "m") in said.value.message
        assert len(said.value.message) < 1000

    @pytest.mark.parametrize(
        ("file", "content", "expected"), RELEASE_RECORDS, ids=range(len(RELEASE_RECORDS))
    )
    def test_of_a_release(self, tmp_path, file, content, expected):
        """Said by card, gate, push and verify, which read them first."""
        with pytest.raises(UserError, match=f"{re.escape(file)}: .*{expected}"):
            read_model_directory(damaged(tmp_path / "m", file, content))

    def test_labels_that_are_no_categories(self, tmp_path):
        """Any plain name is a label."""
        names = ["LABEL_0", "physics", "cond-mat.mes-hall", "Physik_für.alle", "0"]
        model = damaged(tmp_path / "m", CONFIG, labels(*names))
        assert load_predictor(model).labels == names


# Each call that makes something of a file, with the one module that may hold it.
OWNERS = {
    r"\b(Auto\w+|\w+Config|\w+Model|\w+Tokenizer\w*)\.from_(pretrained|config)\(": {"models/loading.py"},
    r"trust_remote_code=(?!False)": set(),
    r"\b(torch\.load|pickle\.loads?|joblib\.load|shelve\.open|yaml\.(unsafe_|full_)load)\(": set(),
    r"allow_pickle=True|np\.load\(": set(),
    r"\bskops_io\.load|skops\.io\.load": {"models/tfidf.py"},
    r"InferenceSession\(|Tokenizer\.from_(file|str|buffer)\(": {"models/onnx_engine.py"},
    r"\bsafe_open\(": {"models/loading.py"},
    r"def file_sha256\(": {"record/files.py"},
}  # fmt: skip


@pytest.mark.parametrize(("call", "owners"), OWNERS.items(), ids=range(len(OWNERS)))
def test_one_module_loads(call: str, owners: set[str]) -> None:
    """No other module reads such files, so that no other one can forget what is refused."""
    package = ROOT / "arxiv_cls"
    found = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if re.search(call, path.read_text(encoding="utf-8"))
    }
    assert found == owners
