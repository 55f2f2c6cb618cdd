"""How programs of ours start, and what no linter sees: modules in memory, names, paths of a machine."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from factories import ROOT, small_model

from arxiv_cls.cli import main

PACKAGE = ROOT / "arxiv_cls"
HELP = """
from arxiv_cls.cli import main
try:
    main("{} --help".split())
except SystemExit:
    pass
"""
PREDICT = "from arxiv_cls.models.predictor import load_predictor; load_predictor('{}').predict(['image'])"
TRAIN = """
from arxiv_cls import errors, train
try:
    train.main("recipes/distilbert.yaml {}".split())
except errors.UserError as error:
    assert "did you mean" in str(error)
"""
TRAINING = ("torch", "transformers", "datasets", "evaluate", "wandb", "dvc")
HEAVY = (*TRAINING, "sklearn", "pandas", "pyarrow", "matplotlib", "xgboost")
LIBRARIES = (*HEAVY, "numpy", "fastapi", "uvicorn")


@pytest.mark.parametrize(
    ("code", "unwanted"),
    [
        pytest.param(HELP.format(""), LIBRARIES, id="help"),
        pytest.param(HELP.format("data build"), LIBRARIES, id="help of the data"),
        pytest.param(HELP.format("serve"), LIBRARIES, id="help of the endpoint"),
        pytest.param("import arxiv_cls.models.prediction, arxiv_cls.models.predictor", HEAVY, id="rules"),
        pytest.param("import arxiv_cls.models.onnx_engine", TRAINING, id="onnx"),
        pytest.param("import arxiv_cls.serving.app", TRAINING, id="endpoint"),
        pytest.param(
            "import arxiv_cls.scoring.metrics, arxiv_cls.scoring.intervals",
            ("torch", "datasets", "evaluate", "matplotlib"),
            id="metrics",
        ),
        pytest.param(PREDICT, TRAINING, id="baseline"),
        pytest.param(TRAIN.format("--model.max_lenth 9"), HEAVY, id="wrong key of the model"),
        pytest.param(TRAIN.format("--data.csvv a"), HEAVY, id="wrong key of the data"),
        pytest.param(TRAIN.format("--learning_rat 1"), ("transformers.trainer", *HEAVY[2:]), id="or trainer"),
    ],
)
def test_light_imports(code, unwanted, tmp_path):
    """Nothing heavy is loaded before it is needed; scoring a text never loads what only training needs."""
    if code is PREDICT:
        small_model().save(tmp_path)
        code = PREDICT.format(tmp_path)
    code = f"{code}\nimport sys; print('loaded', sorted(set({unwanted!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "loaded []"


@pytest.mark.parametrize("module", ["ids", "taxonomy", "csv_reader"])
def test_no_third_party_package_needed(module):
    """Other tools use these in an interpreter that sees no installed package."""
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import arxiv_cls.corpus.{module}"
    subprocess.run([sys.executable, "-S", "-E", "-c", code], check=True)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("", ("data", "evaluate", "predict")),
        ("data build", ("archive",)),
        ("serve", ("ARXIV_CLS_TOKEN", "--max-queue")),
    ],
)
def test_help(words, named, capsys):
    """The commands; the label sets; the options and variables of the endpoint."""
    assert main([*words.split(), "--help"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in named)


def test_version():
    """`--version` prints ours; no command at all is an error in words."""
    command = [sys.executable, "-m", "arxiv_cls.cli"]
    version, bare = (
        subprocess.run([*command, *words], capture_output=True, text=True, check=False)
        for words in (["--version"], [])
    )
    assert (version.returncode, bare.returncode) == (0, 2)
    assert version.stdout.split() == ["arxiv-cls", importlib.metadata.version("arxiv_cls")]
    assert "Traceback" not in bare.stderr


def test_no_module_is_named_like_a_library():
    """arxiv_cls/ is first on sys.path when train.py runs as a script: its names shadow no module."""
    ours = {
        path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    installed = set(importlib.metadata.packages_distributions()) - {"arxiv_cls"}
    assert {"torch", "datasets", "evaluate"} <= installed
    assert not ours & (installed | set(sys.stdlib_module_names))


def test_no_path_of_a_machine():
    """No tracked text names the folder of this clone, the one around it, or a person's home."""
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    places = [re.escape(str(ROOT))]
    if len(ROOT.parent.parts) > 1 and not ROOT.parent.is_relative_to(tempfile.gettempdir()):
        places.append(rf"(?<![\w.-]){re.escape(str(ROOT.parent))}/")
    places += [r"(?<![\w./])/(home|Users)/\w+", r"[A-Z]:\\Users"]
    found = []
    for name in tracked:
        path = ROOT / name
        if path.suffix in {".parquet", ".safetensors", ".skops", ".png", ".onnx"} or not path.is_file():
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        own = places if path.suffix != ".py" and not name.startswith("tests/") else places[:-2]
        found += [f"{name}: {place}" for place in own if re.search(place, text)]
    assert Path(__file__).relative_to(ROOT).as_posix() in tracked
    assert not found
