"""Models from somebody else, hostile or damaged: nothing of them runs, each ends in one clear error."""

from __future__ import annotations

import io
import json
import pickle
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skops.io
from factories import write_onnx_model

from arxiv_cls import cli, train
from arxiv_cls.errors import UserError
from arxiv_cls.models.predictor import load_predictor
from arxiv_cls.record.directory import read_model_directory
from arxiv_cls.serving.http_errors import Refused
from arxiv_cls.serving.model_slot import allowed_model, load_model
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


def pickled_weights(model: Path, marker: Path) -> None:
    """The form of old checkpoints."""
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(pickle.dumps(Touch(marker)))


def renamed_pickle(model: Path, marker: Path) -> None:
    """A pickle under the name of safe weights."""
    (model / "model.safetensors").write_bytes(pickle.dumps(Touch(marker), protocol=0))


def pickle_beside(model: Path, marker: Path) -> None:
    """What the Trainer leaves; nothing needs it."""
    (model / "training_args.bin").write_bytes(pickle.dumps(Touch(marker)))


def pickle_in_an_array(model: Path, marker: Path) -> None:
    """An array of objects."""
    np.save(model / "idf.npy", np.array([Touch(marker)], dtype=object), allow_pickle=True)


def shard_that_is_a_pickle(model: Path, marker: Path) -> None:
    """An index that names other files than safetensors."""
    (model / "model.safetensors").unlink()
    (model / "model.safetensors.index.json").write_text('{"weight_map": {"bert.x": "../shard.bin"}}')


def adapter(model: Path, marker: Path) -> None:
    """peft would load the model that it names."""
    (model / "adapter_config.json").write_text('{"base_model_name_or_path": "user/other"}')


def kernel(model: Path, marker: Path) -> None:
    """transformers would download and run it."""
    change(model / "config.json", attn_implementation="user/kernel")


def link_out(model: Path, marker: Path) -> None:
    """A file from outside under a harmless name."""
    (model.parent / "secret").write_text("secret")
    (model / "notes.txt").symlink_to(model.parent / "secret")


TORCH = {
    code_of_the_model: "auto_map",
    code_of_the_tokenizer: "auto_map",
    pickled_weights: "is a pickle",
    renamed_pickle: "is a pickle",
    pickle_beside: "is a pickle",
    pickle_in_an_array: "is a pickle",
    shard_that_is_a_pickle: "weight_map",
    adapter: "adapter",
    kernel: "kernel",
    link_out: "leads out of the model",
}


def serve(model: Path, engine: str | None = None) -> None:
    """As `arxiv-cls serve` loads a model, and `/load` after its name was allowed."""
    load_model(str(model), ServingSettings(model="x", threads=1, engine=engine))


def load_route(model: Path, engine: str | None = None) -> None:
    """`POST /load`: whose checks come first."""
    serve(Path(allowed_model(model.name, model.parent, ())), engine)


TORCH_ENTRIES: dict[str, Callable[[Path], Any]] = {
    "predict": lambda model: cli.main(["predict", str(model), "text"]),
    "evaluate": lambda model: cli.main(["evaluate", str(model)]),
    "export": lambda model: cli.main(["export", str(model), "--no-int8"]),
    "verify": lambda model: cli.main(
        ["verify", str(model), "--csv", str(ROOT / "data/sample/arxiv_sample.csv")]
    ),
    "serve": lambda model: serve(model, "torch"),
    "load": lambda model: load_route(model, "torch"),
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
    @pytest.mark.parametrize("hostile", TORCH, ids=lambda hostile: hostile.__name__)
    def test_refused(self, tmp_path: Path, marker: Path, hostile: Callable, entry: str) -> None:
        """By every command that loads a model."""
        model = tmp_path / "models" / "m"
        shutil.copytree(RELEASES / "tiny-transformer", model)
        hostile(model, marker)
        refused(TORCH_ENTRIES[entry], model, TORCH[hostile], marker)

    @pytest.mark.parametrize("hostile", TORCH, ids=lambda hostile: hostile.__name__)
    def test_training_start(
        self, tmp_path: Path, marker: Path, hostile: Callable, tiny_encoder: Path, write_recipe: Callable
    ) -> None:
        """`model.name_or_path` is a directory of somebody else."""
        shutil.copytree(tiny_encoder, tmp_path / "encoder")
        hostile(tmp_path / "encoder", marker)
        recipe = write_recipe(
            tmp_path / "recipe.yaml",
            model={"name_or_path": str(tmp_path / "encoder")},
            trainer={"output_dir": str(tmp_path / "out")},
        )
        refused(lambda _: train.main([str(recipe)]), tmp_path, TORCH[hostile], marker)

    def test_on_the_command_line(self, tmp_path: Path, marker: Path) -> None:
        """Nothing is asked, whatever stands on standard input; exit status 2, no traceback."""
        shutil.copytree(RELEASES / "tiny-transformer", tmp_path / "m")
        code_of_the_model(tmp_path / "m", marker)
        done = subprocess.run(
            [sys.executable, "-m", "arxiv_cls.cli", "predict", str(tmp_path / "m"), "text"],
            input="y\n",
            capture_output=True,
            text=True,
            cwd=ROOT,
            check=False,
        )
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f"error: {tmp_path}/m/config.json: ")
        assert len(done.stderr.splitlines()) == 2
        assert not marker.exists()


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


def other_labels(model: Path, marker: Path) -> None:
    """More labels than the graph has logits."""
    config = json.loads((model / "config.json").read_text())
    change(model / "config.json", id2label=config["id2label"] | {"5": "cs.IR"})


ONNX = {
    external("inside.bin2"): "cannot be loaded",
    external("../../outside.bin"): "cannot be loaded",
    external("{}/outside.bin"): "cannot be loaded",
    other_labels: "5 logits, config.json names 6 labels",
    pickle_beside: "is a pickle",
    link_out: "leads out of the model",
    code_of_the_tokenizer: "auto_map",
}


class TestOnnx:
    """An export."""

    @pytest.mark.parametrize(
        "entry",
        [
            lambda model: cli.main(["predict", str(model), "text", "--engine", "onnx"]),
            lambda model: serve(model, "onnx"),
            lambda model: load_route(model, "onnx"),
            lambda model: load_space_model(str(model)),
        ],
        ids=["predict", "serve", "load", "space"],
    )
    @pytest.mark.parametrize(("hostile", "expected"), ONNX.items(), ids=range(len(ONNX)))
    def test_refused(
        self, tmp_path: Path, marker: Path, hostile: Callable, expected: str, entry: Callable
    ) -> None:
        """No other file is read for it, wherever it lies."""
        model = write_onnx_model(tmp_path / "models" / "m")
        hostile(model, marker)
        refused(entry, model, expected, marker)


def rewritten(model: Path, **changes: Any) -> None:
    """The baseline's weights with other parts."""
    state = skops.io.load(model / "model.skops", trusted=[]) | changes
    skops.io.dump(state, model / "model.skops")


def foreign_type(model: Path) -> None:
    """A class that skops would have to import."""
    rewritten(model, trap=Touch(model))


def bomb(model: Path) -> None:
    """A small file that unpacks to 300 MB."""
    with zipfile.ZipFile(model / "model.skops", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("0.npy", bytes(300_000_000))


def contradicting_labels(model: Path) -> None:
    """Six names for five classes."""
    config = json.loads((model / "config.json").read_text())
    named = config["id2label"] | {"5": "cs.IR"}
    change(
        model / "config.json",
        id2label=named,
        num_labels=6,
        label2id={label: int(number) for number, label in named.items()},
    )


BASELINES = {
    foreign_type: "could run code: .*Touch",
    bomb: "300,000,000 bytes in a file of .* it was not read",
    contradicting_labels: "labels, and those of config.json",
    lambda model: change(model / "config.json", features=7): "features of config.json",
    lambda model: rewritten(model, labels=["cs.AI"] * 5): "labels, and those",
    lambda model: rewritten(model, temperature=-1.0): "temperature above 0",
    lambda model: rewritten(model, components=np.ones((2, 3))): "columns of the components",
    lambda model: rewritten(model, linear={"weights": np.ones((2, 2))}): "does not hold a baseline",
    lambda model: rewritten(model, terms=3): "does not hold a baseline",
    lambda model: rewritten(model, trees=np.frombuffer(b"no trees", dtype=np.uint8)): "not hold a baseline",
}


class TestBaseline:
    """A skops file."""

    @pytest.mark.parametrize(("hostile", "expected"), BASELINES.items(), ids=range(len(BASELINES)))
    def test_refused(self, tmp_path: Path, hostile: Callable, expected: str) -> None:
        """What could run code, what is far too large, and what does not fit its own records."""
        shutil.copytree(RELEASES / "tiny-tfidf", tmp_path / "m")
        hostile(tmp_path / "m")
        with pytest.raises(UserError, match=expected):
            load_predictor(tmp_path / "m")


def labels(*names: Any) -> dict[str, Any]:
    """A map of labels, as the changes of `config.json` that it needs."""
    return {"id2label": {str(at): name for at, name in enumerate(names)}, "label2id": None}


CONFIG, TOKENIZER, RUN, METRICS = "config.json", "tokenizer_config.json", "run.json", "eval/metrics.json"
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


def damaged(folder: Path, file: str, content: dict[str, Any] | str | bytes) -> Path:
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
    def test_of_a_model_that_is_loaded(
        self, tmp_path: Path, file: str, content: dict[str, Any] | str | bytes, expected: str
    ) -> None:
        """Said when it is loaded, not when it is asked."""
        with pytest.raises(UserError, match=expected) as said:
            load_predictor(damaged(tmp_path / "m", file, content))
        assert str(tmp_path / "m") in said.value.message
        assert len(said.value.message) < 1000

    @pytest.mark.parametrize(
        ("file", "content", "expected"), RELEASE_RECORDS, ids=range(len(RELEASE_RECORDS))
    )
    def test_of_a_release(
        self, tmp_path: Path, file: str, content: dict[str, Any] | str, expected: str
    ) -> None:
        """Said by card, gate, push and verify, which read them first."""
        with pytest.raises(UserError, match=f"{re.escape(file)}: .*{expected}"):
            read_model_directory(damaged(tmp_path / "m", file, content))

    @pytest.mark.parametrize("changes", [{"data": []}, {"metrics": []}])
    def test_of_the_endpoint(self, tmp_path: Path, changes: dict[str, Any]) -> None:
        """`run.json` is read when the model is loaded, so no request meets a broken one."""
        model = write_onnx_model(tmp_path / "m")
        change(model / RUN, **changes)
        with pytest.raises(UserError, match=r"run\.json: "):
            load_model(str(model), ServingSettings(model="x", threads=1, engine="onnx"))

    def test_labels_that_are_no_categories(self, tmp_path: Path) -> None:
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
