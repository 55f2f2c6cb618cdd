"""One commit, one tag; every fault leaves the repository as it was or released, and a rerun completes it."""

from __future__ import annotations

import re

import pytest
from local_hub import TOKEN, Blob, LocalHub

from arxiv_cls.errors import UserError
from arxiv_cls.release.hub import Content, Repository, connect, download_release
from arxiv_cls.release.releases import ReleaseResult, begin_release, plan_release, publish, rollback

REPO = "user/model"
FIRST: dict[str, Content] = {
    "README.md": b"card 1",
    "model.safetensors": b"1" * 2000,
    "eval/metrics.json": b"{}",
}
SECOND: dict[str, Content] = {"README.md": b"card 2", "model.safetensors": b"2" * 2000, "run.json": b"{}"}


def release(
    files: dict[str, Content], version: str | None = None, *, create_pr: bool = False
) -> ReleaseResult:
    """The steps of a push without the gate."""
    repository, state = begin_release(REPO, version)
    plan = plan_release(repository, state, version, files)
    return publish(repository, plan, files, create_pr=create_pr)


def released(hub: LocalHub, version: str) -> dict[str, bytes]:
    """The files of a version, without the Hub's own."""
    files = hub.repository(REPO).files(version)
    files.pop(".gitattributes")
    return files


class TestRelease:
    """Nothing fails."""

    def test_a_release_is_one_commit_and_one_tag_with_exactly_the_files(self, hub: LocalHub) -> None:
        """v0.1.0 first, then the next minor version; what it lacks is gone from main, not from older tags."""
        result = release(FIRST)
        repository = hub.repository(REPO)
        assert (result.version, result.state) == ("v0.1.0", "released")
        assert repository.tags == {"v0.1.0": repository.branches["main"]}
        assert [commit.title for commit in repository.history("main")] == ["Release v0.1.0", "initial commit"]
        assert release(SECOND).version == "v0.2.0"
        assert (released(hub, "main"), released(hub, "v0.1.0")) == (SECOND, FIRST)
        assert len(repository.history("main")) == 3

    def test_same_files_again_change_nothing(self, hub: LocalHub) -> None:
        """The version that is there is reported, the card may differ; with other files it is refused."""
        release(FIRST)
        before = hub.repository(REPO).state()
        again = release({**FIRST, "README.md": b"rendered anew"})
        assert (again.version, again.state) == ("v0.1.0", "present")
        assert release(FIRST, "v0.1.0").state == "present"
        with pytest.raises(UserError, match=r"has a release v0\.1\.0 with other files.*\n.*v0\.2\.0"):
            release(SECOND, "v0.1.0")
        assert hub.repository(REPO).state() == before

    @pytest.mark.parametrize("version", ["1.2.0", "v1.2", "v01.2.0", "v1.2.0 "])
    def test_malformed_version(self, hub: LocalHub, version: str) -> None:
        """What is not v1.2.3 is refused before anything is sent."""
        with pytest.raises(UserError, match="is not a version"):
            release(FIRST, version)
        assert not hub.repositories


def test_pull_request(hub: LocalHub) -> None:
    """Asking again opens no second request; the merged commit gets the tag, also when main went on."""
    release(FIRST)
    repository = hub.repository(REPO)
    before = repository.branches["main"]
    proposed = release(SECOND, create_pr=True)
    assert (proposed.state, proposed.url) == ("proposed", f"{hub.url}/{REPO}/discussions/1")
    assert release(SECOND, create_pr=True).url == proposed.url
    assert (repository.branches["main"], list(repository.tags)) == (before, ["v0.1.0"])
    merged = repository.merge(1)
    repository.commit("main", "a typo on the card", {"README.md": Blob(b"their card", False)})
    head = repository.branches["main"]
    result = release(SECOND, create_pr=True)
    assert (result.version, result.state, result.commit) == ("v0.2.0", "finished", merged)
    assert (repository.tags["v0.2.0"], repository.branches["main"]) == (merged, head)
    assert released(hub, "v0.2.0") == SECOND
    assert len(repository.pull_requests) == 1


class TestFaults:
    """What happens when the Hub fails in the middle."""

    @pytest.fixture(autouse=True)
    def _first(self, hub: LocalHub) -> None:
        release(FIRST)

    @pytest.mark.parametrize(
        ("operation", "status", "times", "told"),
        [
            ("preupload", 500, 99, "answered 500"),
            ("commit", 409, 1, "answered 409"),
            ("commit", 412, 1, "somebody else changed"),
            ("commit", None, 99, "cannot reach the Hub"),
            ("upload", 500, 99, "answered 500"),
        ],
    )
    def test_before_the_commit_nothing_has_changed(
        self, hub: LocalHub, operation: str, status: int | None, times: int, told: str
    ) -> None:
        """The repository is as it was, the message is one line with a hint, and the next run completes it."""
        before = hub.repository(REPO).state()
        hub.fail(operation, status, times=times)
        with pytest.raises(UserError, match=told) as failure:
            release(SECOND)
        assert "run the same command again" in str(failure.value)
        assert TOKEN not in str(failure.value)
        assert hub.repository(REPO).state() == before
        hub.faults.clear()
        assert release(SECOND).version == "v0.2.0"
        assert (released(hub, "v0.2.0"), released(hub, "v0.1.0")) == (SECOND, FIRST)

    @pytest.mark.parametrize(
        ("operation", "status", "after"),
        [("upload", None, False), ("commit", 500, True), ("commit", None, True), ("tag", 500, False),
         ("tag", 500, True), ("tag", None, True)],
    )  # fmt: skip
    def test_one_failure_is_tried_again(
        self, hub: LocalHub, operation: str, status: int | None, after: bool
    ) -> None:
        """A file is sent again; a commit or tag that was made and only its answer was lost is found."""
        hub.fail(operation, status, after=after)
        assert release(SECOND).state == "released"
        assert len(hub.repository(REPO).history("main")) == 3
        assert released(hub, "v0.2.0") == SECOND

    @pytest.fixture
    def untagged(self, hub: LocalHub) -> str:
        """The commit of a second release that ended before its tag."""
        hub.fail("tag", 500, times=4)
        with pytest.raises(UserError, match=r"tagging v0\.2\.0"):
            release(SECOND)
        return hub.repository(REPO).branches["main"]

    @pytest.mark.parametrize("version", [None, "v0.2.0"])
    @pytest.mark.parametrize("theirs", [False, True])
    def test_untagged_commit_is_finished(
        self, hub: LocalHub, untagged: str, version: str | None, theirs: bool
    ) -> None:
        """The second run adds the tag to the commit that is there, also below a commit of somebody else."""
        if theirs:
            hub.repository(REPO).commit("main", "theirs", {"notes.md": Blob(b"x", False)})
        head = hub.repository(REPO).branches["main"]
        result = release({**SECOND, "README.md": b"rendered anew"}, version)
        assert (result.version, result.state, result.commit) == ("v0.2.0", "finished", untagged)
        assert hub.repository(REPO).branches["main"] == head
        assert released(hub, "v0.2.0") == SECOND

    def test_untagged_commit_that_was_rolled_back(self, hub: LocalHub, untagged: str) -> None:
        """It is not made a release behind the back of who rolled it back: it is committed anew."""
        rollback(REPO, "v0.1.0")
        assert release(SECOND).state == "released"
        assert released(hub, "main") == released(hub, "v0.2.0") == SECOND

    def test_untagged_commit_of_other_files(self, hub: LocalHub, untagged: str) -> None:
        """It is not taken for this release."""
        third = {**SECOND, "model.safetensors": b"3" * 2000}
        assert release(third).version == "v0.2.0"
        assert released(hub, "v0.2.0") == third

    @pytest.mark.parametrize("moved", ["main", "tag"])
    def test_somebody_else_was_faster(self, hub: LocalHub, moved: str) -> None:
        """A commit or a tag of theirs between reading and committing stops the release, and is kept."""
        repository, state = begin_release(REPO, None)
        plan = plan_release(repository, state, None, SECOND)
        there = hub.repository(REPO)
        if moved == "main":
            head = there.commit("main", "theirs", {})[0]
        else:
            there.tag("v0.2.0", state.head)
        told = {"main": "somebody else changed the repository meanwhile", "tag": "answered 409"}[moved]
        with pytest.raises(UserError, match=told):
            publish(repository, plan, SECOND)
        if moved == "main":
            assert (there.branches["main"], list(there.tags)) == (head, ["v0.1.0"])
        else:
            assert there.tags["v0.2.0"] == state.head


class TestBusyHub:
    """Too many requests, an outage, lost connections: waited for, within bounds, and told."""

    @pytest.mark.parametrize(
        ("operation", "status"),
        [("whoami", 429), ("read", 503), ("create", 429), ("commit", 503), ("tag", 429)],
    )
    def test_waits_as_the_hub_asks(
        self, hub: LocalHub, operation: str, status: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Two refusals with `Retry-After: 1` end no release."""
        caplog.set_level("INFO", "arxiv_cls")
        hub.fail(operation, status, times=2, Retry_After="1")
        assert release(FIRST).state == "released"
        assert released(hub, "v0.1.0") == FIRST
        assert re.search(rf"the Hub answered {status} while .*, waiting 1 s", caplog.text)

    def test_does_not_wait_for_long(self, hub: LocalHub) -> None:
        """An hour is left to the person, who is told."""
        hub.fail("read", 429, Retry_After="3600")
        with pytest.raises(UserError, match="the Hub asks to wait 3600 s; run the same command again"):
            release(FIRST)

    @pytest.mark.parametrize(("status", "times"), [(403, 1), (412, 1), (503, 99), (None, 99)])
    def test_new_repository_that_stays_empty(self, hub: LocalHub, status: int | None, times: int) -> None:
        """It is told with the way to remove it; no advice stands there twice."""
        hub.fail("commit", status, times=times)
        with pytest.raises(UserError) as failure:
            release(FIRST)
        told = str(failure.value)
        assert f"{REPO} was created for it and is empty: `hf repos delete {REPO}` removes it" in told
        assert told.count("run the same command again") == 1

    def test_two_first_pushes_at_once(self, hub: LocalHub) -> None:
        """The second one finds the release of the first, and does not write over it."""
        release(FIRST)
        with pytest.raises(UserError, match=f"somebody else created {REPO} meanwhile"):
            Repository(connect(write=True), REPO).create(private=False)
        assert release(SECOND).version == "v0.2.0"


class TestConnection:
    """What is told before any work."""

    def test_download_that_is_cut_short(self, hub: LocalHub) -> None:
        """Fetched again; where that does not help it is an error, and never half a file."""
        release(FIRST)
        hub.fail("short", times=99)
        with pytest.raises(UserError, match="a file arrived incomplete while downloading") as failure:
            download_release(connect(write=False), REPO, "v0.1.0")
        assert failure.value.exit_code == 3
        hub.faults[0].times = 1
        folder = download_release(connect(write=False), REPO, "v0.1.0")
        assert {path: (folder / path).read_bytes() for path in FIRST} == FIRST

    def test_token(self, hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
        """A wrong one is in no message or chained exception; without one both ways to give it are named."""
        wrong = "hf_" + "wrongtoken" * 3
        monkeypatch.setenv("HF_TOKEN", wrong)
        with pytest.raises(UserError, match="the token is not valid") as failure:
            release(FIRST)
        assert wrong not in str(failure.value)
        assert failure.value.__suppress_context__
        monkeypatch.delenv("HF_TOKEN")
        with pytest.raises(UserError, match=r"no token.*\n.*HF_TOKEN.*hf auth login"):
            release(FIRST)
        assert not hub.repositories


def test_rollback(hub: LocalHub) -> None:
    """Exactly the older files by a new commit; history and tags stay, and a new release goes on."""
    release(FIRST)
    release(SECOND)
    head = rollback(REPO, "v0.1.0")
    repository = hub.repository(REPO)
    assert released(hub, "main") == FIRST
    assert repository.branches["main"] == head
    assert repository.history("main")[0].title == "Roll back to v0.1.0"
    assert list(repository.tags) == ["v0.1.0", "v0.2.0"]
    assert Repository(connect(write=False), REPO).state().current_version == "v0.1.0"
    assert rollback(REPO, "v0.1.0") == head
    assert release({**SECOND, "run.json": b"[]"}).version == "v0.3.0"
    with pytest.raises(UserError, match=r"has no version v9\.9\.9\n.*v0\.1\.0"):
        rollback(REPO, "v9.9.9")
