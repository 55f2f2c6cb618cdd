"""`make demo`: its steps are real commands, a step that fails ends it, at the end is a table."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import parsed
from local_servers import served_by_make

from arxiv_cls import demo
from arxiv_cls.errors import UserError
from arxiv_cls.recipe import load_recipe
from arxiv_cls.training.arguments import TransformerRecipe

ROOT = Path(__file__).resolve().parent.parent


class TestCommands:
    """What the demo prints is what a person can type."""

    def test_steps(self):
        """Scripts, recipes and the sample are there; `arxiv-cls` takes the words; trainings start over."""
        commands = [shlex.split(command) for command in demo.STEPS.values()]
        for words in commands:
            files = [word for word in words if re.fullmatch(r"[\w/]+\.(py|yaml|csv)", word)]
            assert all((ROOT / file).is_file() for file in files), words
            assert words[0] != "arxiv-cls" or parsed(words[1:])
        trainings = [words for words in commands if any("arxiv_cls/train" in word for word in words)]
        assert ["--overwrite" in words for words in trainings] == [True, True]

    def test_next_commands(self):
        """The environment first; then a source of data that anybody reaches, a recipe, and its own model."""
        lines = [line.split("#")[0].split() for line in demo.NEXT_COMMANDS.splitlines()[2:]]
        activate, data, train, predict = lines
        assert activate == [".", ".venv/bin/activate"]
        assert data == ["make", "data", "SOURCE=kaggle"]
        script = train.index("arxiv_cls/train.py")
        assert train[:3] == ["accelerate", "launch", "--config_file"]
        assert all((ROOT / train[place]).is_file() for place in (3, script, script + 1))
        recipe = load_recipe(ROOT / train[script + 1], train[script + 2 :], TransformerRecipe)
        arguments = parsed(predict[1:])
        assert (arguments["model"], str(arguments["csv"])) == (f"outputs/{recipe.name}", recipe.data.csv)


class TestRun:
    """One step."""

    def test_command_is_printed_and_run(self, capfd):
        """The purpose, the command and its output, in this order, by the environment's own Python."""
        demo.run("Do something", "python -c \"import sys; print('out of', sys.prefix)\"", "1/2")
        printed = capfd.readouterr().out
        assert "[1/2] Do something\n$ python -c" in printed
        assert printed.index("$ python") < printed.index(f"out of {sys.prefix}")

    @pytest.mark.parametrize(
        ("command", "told", "exit_code"),
        [
            ("python -c 'raise SystemExit(3)'", "step 2/5 .* exit status 3", 3),
            ("python -c 'raise SystemExit(200)'", "step 2/5 .* exit status 200", 1),
            ("no-such-program", "'no-such-program'", 2),
        ],
    )
    def test_failure_ends_the_demo(self, command, told, exit_code):
        """The step is named, and its status carried on where it is a plain one."""
        with pytest.raises(UserError, match=told) as caught:
            demo.run("Do something", command, "2/5")
        assert caught.value.exit_code == exit_code

    def test_arguments_are_refused(self):
        """The demo has no options."""
        with pytest.raises(UserError, match="--fast"):
            demo.main(["--fast"])


@pytest.fixture(scope="module")
def printed() -> str:
    """What `make demo` prints; it leaves its models in outputs/."""
    run = subprocess.run(
        [sys.executable, "-m", "arxiv_cls.demo"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return run.stdout


@pytest.mark.slow
class TestWorkflow:
    """The whole demo, for real."""

    def test_ends_with_a_table_for_both_models(self, printed):
        """Both models are better than the largest class alone, and both model directories are there."""
        table = printed.split("Results on the synthetic sample", 1)[1]
        assert not re.search(r" +$", table, re.MULTILINE)
        accuracies = [float(a) for a in re.findall(r"\d+ +(0\.\d{3}) \(0\.\d{3} to [01]\.\d{3}\)", table)]
        assert len(accuracies) == 2
        assert min(accuracies) > 0.5
        assert (ROOT / demo.TRANSFORMER / "model.safetensors").is_file()
        assert (ROOT / demo.TRANSFORMER / "onnx" / "model.onnx").is_file()
        assert (ROOT / demo.TRANSFORMER / "handler.py").is_file()
        assert (ROOT / demo.BASELINE / "model.skops").is_file()

    def test_what_the_readme_asks_and_prints(self, printed, tmp_path):
        """`make serve` and curl as the README has them: the same two labels first, scores near its."""
        page = (ROOT / "README.md").read_text(encoding="utf-8")
        serve, curl, said = re.search(
            r"```bash\n(make serve MODEL=outputs/demo)\b.*?```bash\n(curl .*?)```\n\n```json\n(.*?)```",
            page,
            re.S,
        ).groups()
        with served_by_make(serve, tmp_path / "output.txt") as server:
            asked = curl.replace("localhost:8000", server.url.removeprefix("http://"))
            done = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, timeout=60)
        answer, said = json.loads(done.stdout), json.loads(said)
        # Training rounds differently from one processor to another.
        assert [one["label"] for one in answer][:2] == [one["label"] for one in said][:2]
        assert [one["score"] for one in answer] == pytest.approx([one["score"] for one in said], abs=0.15)
