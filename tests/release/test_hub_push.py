"""A model directory on the local Hub: exactly the manifest's files, and everything that can stop it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from factories import TFIDF, TRANSFORMER, change_json, make_model_dir, record_again
from huggingface_hub import HfApi
from local_hub import TOKEN, LocalHub
from test_released import BASELINE

from arxiv_cls.cli import main
from arxiv_cls.errors import UserError
from arxiv_cls.record.manifest import release_files
from arxiv_cls.record.run_record import git_state
from arxiv_cls.release import push_model as hub_push
from arxiv_cls.release import push_space
from arxiv_cls.release.push_model import push_model
from arxiv_cls.release.releases import list_releases, rollback

REPO = "user/arxiv-tiny"


def on_hub(hub: LocalHub, revision: str = "main") -> dict[str, bytes]:
    """The release's files at a revision."""
    files = hub.repository(REPO).files(revision)
    assert files.pop(".gitattributes")
    return files


class TestPush:
    """Release a model, then the next one."""

    @pytest.mark.parametrize("kind", [TRANSFORMER, TFIDF])
    def test_exactly_the_files_of_the_manifest(self, hub: LocalHub, tmp_path: Path, kind: str) -> None:
        """One commit, one tag, every listed file byte for byte, no log; a second push finds nothing to do."""
        folder = make_model_dir(tmp_path / "model", kind)
        (folder / "train.log").write_text("epoch 1")
        outcome = push_model(folder, REPO)
        assert (outcome.release.version, outcome.release.state) == ("v0.1.0", "released")
        repository = hub.repository(REPO)
        assert len(repository.history("main")) == 2
        assert list(repository.tags) == ["v0.1.0"]
        assert on_hub(hub) == {path: (folder / path).read_bytes() for path in release_files(folder, kind)}
        assert "train.log" not in on_hub(hub)
        assert f"{REPO}/tree/v0.1.0" in (folder / "README.md").read_text()
        before = repository.state()
        again = push_model(folder, REPO).release
        assert (again.state, repository.state()) == ("present", before)
        assert "nothing to do" in again.describe()

    def test_after_a_rollback_the_older_release_is_the_measure(
        self, hub: LocalHub, model: Path, tmp_path: Path
    ) -> None:
        """What users get now is what a candidate must not be worse than."""
        push_model(model, REPO)
        better = make_model_dir(tmp_path / "better", accuracy=0.95, weights=b"better", seed=1)
        push_model(better, REPO)
        near = make_model_dir(tmp_path / "near", accuracy=0.8, weights=b"near", seed=3)
        with pytest.raises(UserError, match=r"worse than v0\.2\.0"):
            push_model(near, REPO)
        rollback(REPO, "v0.1.0")
        assert push_model(near, REPO).release.version == "v0.3.0"

    def test_failure_between_commit_and_tag_keeps_the_override(self, hub: LocalHub, model: Path) -> None:
        """The second run finishes the commit that is there, though the directory lacks its gate record."""
        change_json(model / "run.json", git={"commit": None, "dirty": False})
        hub.fail("tag", 500, times=4)
        with pytest.raises(UserError, match="tagging"):
            push_model(model, REPO, overrides=["commit"])
        assert push_model(model, REPO).release.state == "finished"
        assert b"Released with overrides" in on_hub(hub, "v0.1.0")["README.md"]
        assert len(hub.repository(REPO).history("main")) == 2

    def test_examples_are_part_of_the_first_release(self, hub: LocalHub, tmp_path: Path) -> None:
        """After `train --no-evaluate` and `evaluate` they are not made yet; a second push changes nothing."""
        folder = tmp_path / "model"
        shutil.copytree(BASELINE, folder)
        (folder / "eval/examples.json").unlink()
        record_again(folder)
        overrides = ["commit", "clean-tree"]
        outcome = push_model(folder, REPO, overrides=overrides)
        assert (outcome.release.version, outcome.release.state) == ("v0.1.0", "released")
        assert json.loads(on_hub(hub)["eval/examples.json"])["examples"]
        assert b"widget:" in on_hub(hub)["README.md"]
        again = push_model(folder, REPO, overrides=overrides).release
        assert (again.version, again.state) == ("v0.1.0", "present")

    def test_record_of_the_overrides(self, hub: LocalHub, model: Path, tmp_path: Path) -> None:
        """Released and kept beside the card; the next release without one takes it away again."""
        change_json(model / "run.json", git={"commit": None, "dirty": False})
        push_model(model, REPO, overrides=["commit"])
        record = json.loads(on_hub(hub)["eval/gate.json"])
        (check,) = record["overridden"]
        assert (record["version"], check["check"], check["found"]) == ("v0.1.0", "commit", "None")
        assert (model / "eval/gate.json").read_bytes() == on_hub(hub)["eval/gate.json"]
        change_json(model / "run.json", git=git_state() | {"dirty": False})
        assert push_model(model, REPO).release.version == "v0.2.0"
        assert "eval/gate.json" not in on_hub(hub)
        assert not (model / "eval/gate.json").exists()

    def test_secret_that_only_the_card_holds(
        self, hub: LocalHub, model: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A refusal of the check `secrets` like any other: counted, not shown, overridden by its name."""
        secret = "hf_" + "Abcdefghij" * 3
        rendered = hub_push.render_model_card

        def leaking(*given: object, **named: object) -> str:
            return rendered(*given, **named) + f"token: {secret}\n"

        monkeypatch.setattr(hub_push, "render_model_card", leaking)
        with pytest.raises(UserError, match=r"secrets: looks like a secret: README\.md, line \d+") as refusal:
            push_model(model, REPO)
        assert "wanted 0" in str(refusal.value)
        assert "--override secrets" in str(refusal.value)
        assert secret not in str(refusal.value)
        assert not hub.repositories
        push_model(model, REPO, overrides=["secrets"])
        assert b"> - secrets: looks like a secret" in on_hub(hub)["README.md"]

    def test_foreign_files_stay_behind_when_overridden(self, hub: LocalHub, model: Path) -> None:
        """The override lets the release pass, not the file; one that there is no check for is refused."""
        (model / "training_args.bin").write_bytes(b"x")
        with pytest.raises(UserError, match=r"there is no check flies.*\n.*files"):
            push_model(model, REPO, overrides=["flies"])
        with pytest.raises(UserError, match="outside the manifest"):
            push_model(model, REPO)
        assert not hub.repositories
        push_model(model, REPO, overrides=["files", "pickles"])
        assert "training_args.bin" not in on_hub(hub)


class TestCommands:
    """The commands as a person types them."""

    @pytest.mark.parametrize(
        "words",
        [["push-model", "{}/model"], ["push-dataset", "--csv={}/none.csv"], ["push-space", "user/model"]],
    )
    def test_no_network_is_told_before_any_work(
        self, hub: LocalHub, model: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
    ) -> None:
        """Exit code 3; the directory is untouched, no CSV is looked for, no wheel is built."""
        monkeypatch.setattr(push_space, "_space_files", lambda *a, **k: pytest.fail("built"))
        hub.__exit__()
        with pytest.raises(UserError, match=f"cannot reach the Hub at {hub.url}") as failure:
            main([*(word.format(model.parent) for word in words), "--repo", REPO])
        assert failure.value.exit_code == 3
        assert not (model / "README.md").exists()

    def test_what_is_told_meanwhile(
        self, hub: LocalHub, model: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """On stderr: which release is fetched, and how the card gets a dataset; nothing of the libraries."""
        main(["push-model", str(model), "--repo", REPO])
        told = capsys.readouterr().err
        assert "the card names no dataset: write `dataset: user/name`" in told
        recipe = yaml.safe_load((model / "recipe.yaml").read_text())
        recipe["release"]["dataset"] = "user/arxiv-papers"
        (model / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        main(["push-model", str(record_again(model)), "--repo", REPO])
        lines = capsys.readouterr().err.splitlines()
        told = [line for line in lines if "it/s" not in line and "%|" not in line]
        assert told == [f"fetching {REPO}@v0.1.0 to compare with"]

    def test_push_list_and_roll_back(
        self, hub: LocalHub, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """What is printed names version, numbers and address; the token is nowhere."""
        main(["push-model", str(model), "--repo", REPO])
        printed = capsys.readouterr()
        assert f"released {REPO} v0.1.0: {hub.url}/{REPO}/tree/v0.1.0" in printed.out
        assert "pass       quality" in printed.out
        change_json(model / "run.json", seed=8)
        main(["push-model", str(model), "--repo", REPO, "--version", "v1.0.0"])
        main(["releases", REPO])
        macro_f1 = json.loads((model / "eval/metrics.json").read_text())["metrics"]["macro_f1"]
        listing = capsys.readouterr().out.splitlines()[-3:]
        assert "macro_f1" in listing[0]
        assert listing[1].split()[:2] == ["*", "v1.0.0"]
        assert f"{macro_f1:.4f}" in listing[1]
        assert listing[2].split()[0] == "v0.1.0"
        main(["rollback", REPO, "v0.1.0"])
        everything = printed.out + printed.err + capsys.readouterr().out
        assert TOKEN not in everything
        assert [line.split()[1] for line in list_releases(REPO).splitlines() if line[0] == "*"] == ["v0.1.0"]

    def test_no_such_repository_and_one_without_releases(self, hub: LocalHub) -> None:
        """The first is an error, the second is not."""
        with pytest.raises(UserError, match="knows no such repository"):
            list_releases(REPO)
        HfApi().create_repo(REPO)
        assert list_releases(REPO) == f"{REPO} has no releases"

    @pytest.mark.parametrize("repo_id", ["arxiv", "user/a/b", "user/with space", "../x", "https://x/y"])
    def test_malformed_repository(self, model: Path, repo_id: str) -> None:
        """A name that the Hub would refuse is refused here, by every command that takes one."""
        commands = (
            ["push-model", str(model), "--repo", repo_id],
            ["push-dataset", "--repo", repo_id],
            ["push-space", "user/model", "--repo", repo_id],
            ["card", str(model), "--repo", repo_id],
            ["releases", repo_id],
            ["rollback", repo_id, "v0.1.0"],
            ["verify", f"{repo_id}@v0.1.0"],
        )
        for command in commands:
            with pytest.raises(UserError, match="is not a repository id"):
                main(command)

    def test_card_command(self, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """`arxiv-cls card` needs no Hub."""
        main(["card", str(model)])
        assert capsys.readouterr().out.strip() == str(model / "README.md")
        assert "# tiny" in (model / "README.md").read_text()
