"""`arxiv-cls monitor retrain-plan`: from an alarm to a release, filled in from the model's own record."""

from __future__ import annotations

import shlex
from pathlib import Path

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from arxiv_cls.errors import UserError
from arxiv_cls.models.predictor import locate_model
from arxiv_cls.record.model_files import read_model_file

# What a run sets without changing the model.
HARMLESS = {"trainer.output_dir", "trainer.report_to"}
PLAN = """\
{facts}

# 1. New version of the data
cp NEWER.csv {csv}
arxiv-cls data check --csv {csv} --config {config}
dvc add {csv}
git commit -m 'Newer papers' {csv}.dvc

# 2. Keep what is released, then train and evaluate the recipe
{keep}
make reproduce RECIPE={recipe_file} {overwrite}

# 3. Both models on the same papers
arxiv-cls compare {released} {new} --data {csv}

# 4. The gate, and a pull request on the Hub; again without --create-pr once it is merged
arxiv-cls push-model {new} --repo {repo} --csv {csv} --create-pr

# 5. Endpoint and monitor take the new version, whose windows start anew; each is declared whole
make deploy MODEL={repo}@VERSION IMAGE=IMAGE LOG=LOG SERVICE_ACCOUNT=ACCOUNT SERVE_ARGS='--monitoring OUT'
make deploy-monitor MODEL={repo}@VERSION IMAGE=MONITOR_IMAGE LOG=LOG OUT=OUT SERVICE_ACCOUNT=ACCOUNT
# Where they are not deployed: arxiv-cls monitor serve {repo}@VERSION --log LOG --out OUT
"""


def retrain_plan(model: str, repo: str | None = None) -> str:
    """The plan, as commands for a shell; `repo` is the repository on the Hub (default: MODEL's own).

    Raises:
        UserError: no model, or its record does not say what it was made of.
    """
    try:
        validate_repo_id(repo or "user/name")
    except HFValidationError:
        raise UserError(f"--repo {repo!r} is not a repository id", "it looks like user/name") from None
    directory = locate_model(model)
    run = read_model_file(directory, "run.json") or {}
    recipe, data = run.get("recipe"), run.get("data") or {}
    if not recipe or not data.get("csv"):
        raise UserError(
            f"{model}: its run.json names no recipe and no data",
            "train a model with `make reproduce RECIPE=`",
        )
    released = model.rstrip("/")
    local = Path(model).expanduser().is_dir()
    kept = f"{released}-released" if local else released
    values = {
        "csv": f"data/raw/{data['csv']}",
        "config": data.get("config") or "top5",
        "recipe_file": f"recipes/{recipe}.yaml",
        "released": kept,
        "new": f"outputs/{recipe}",
        "repo": repo or ("USER/NAME" if local else model.partition("@")[0]),
    }
    # A record of the Hub is somebody else's: its words are no code for a shell.
    quoted = {name: shlex.quote(str(value)) for name, value in values.items()}
    quoted["keep"] = (
        f"cp -r {shlex.quote(released)} {quoted['released']}" if local else "# (it is on the Hub)"
    )
    quoted["overwrite"] = "OVERWRITE=1" if local else ""
    facts = [" ".join(fact.split()) for fact in _facts(model, directory, run)]
    return PLAN.format(facts="\n".join(f"# {fact}" for fact in facts), **quoted).replace(" \n", "\n")


def _facts(model: str, directory: Path, run: dict) -> list[str]:
    data = run["data"]
    papers, newest = (data.get("splits") or {}).get("train"), data.get("newest_training_paper")
    facts = [
        f"{model}: weights {str(run.get('weights_sha256'))[:12]}, recipe {run['recipe']}",
        f"trained on {papers or '?'} papers up to {newest or '?'} of {data['csv']}, "
        f"sha256 {str(data.get('sha256'))[:12]}",
    ]
    evaluation = (read_model_file(directory, "eval/metrics.json") or {}).get("metrics") or {}
    if "accuracy" in evaluation:
        facts.append(
            f"released: accuracy {evaluation['accuracy']:.3f}, macro-F1 {evaluation['macro_f1']:.3f}"
        )
    keys = {str(override).partition("=")[0] for override in run.get("overrides") or []} - HARMLESS
    if keys:
        facts.append(
            f"not as recipes/{run['recipe']}.yaml says, write it there first: {', '.join(sorted(keys))}"
        )
    return facts
