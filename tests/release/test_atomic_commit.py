"""One commit, one tag; every fault leaves the repository as it was or released, and a rerun completes it."""

from __future__ import annotations

import pytest
from local_hub import TOKEN, LocalHub
from local_hub_store import Blob

from arxiv_cls.errors import UserError
from arxiv_cls.release.hub import Content, connect, download_release, read_state
from arxiv_cls.release.releases import ReleaseResult, Repository, plan_release, publish, rollback

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
    repository = Repository(connect(write=True), REPO)
    state = repository.state()
    plan = plan_release(repository, state, version, files)
    head = (state or repository.create(private=False)).head
    return publish(repository, plan, files, parent=head, create_pr=create_pr, created=state is None)


def released(hub: LocalHub, version: str) -> dict[str, bytes]:
    """The files of a version, without the Hub's own."""
    files = hub.repository(REPO).files(version)
    files.pop(".gitattributes")
    return files


class TestRelease:
    """The road without accidents."""

    def test_first_release_is_one_commit_and_one_tag_with_exactly_the_files(self, hub: LocalHub) -> None:
        """The first version is v0.1.0; one commit is added to the Hub's own first one."""
        result = release(FIRST)
        repository = hub.repository(REPO)
        assert (result.version, result.state) == ("v0.1.0", "released")
        assert repository.tags == {"v0.1.0": repository.branches["main"]}
        assert [commit.title for commit in repository.history("main")] == ["Release v0.1.0", "initial commit"]
        assert released(hub, "v0.1.0") == FIRST

    def test_next_release_is_the_next_minor_and_removes_what_it_lacks(self, hub: LocalHub) -> None:
        """Files of the older release that the new one does not have are gone from main, not from the tag."""
        release(FIRST)
        result = release(SECOND)
        assert result.version == "v0.2.0"
        assert released(hub, "main") == SECOND
        assert released(hub, "v0.1.0") == FIRST
        assert len(hub.repository(REPO).history("main")) == 3

    def test_same_files_again_change_nothing(self, hub: LocalHub) -> None:
        """A second run of a finished command reports the version that is there; the card may differ."""
        release(FIRST)
        before = hub.repository(REPO).state()
        again = release({**FIRST, "README.md": b"rendered anew"})
        assert (again.version, again.state) == ("v0.1.0", "present")
        assert release(FIRST, "v0.1.0").state == "present"
        assert hub.repository(REPO).state() == before

    def test_existing_version_is_never_overwritten(self, hub: LocalHub) -> None:
        """The refusal names the version that is free."""
        release(FIRST)
        before = hub.repository(REPO).state()
        with pytest.raises(UserError, match=r"has a release v0\.1\.0 with other files") as refusal:
            release(SECOND, "v0.1.0")
        assert "v0.2.0" in str(refusal.value)
        assert hub.repository(REPO).state() == before

    @pytest.mark.parametrize("version", ["1.2.0", "v1.2", "v01.2.0", "latest", "v1.2.0 "])
    def test_malformed_version(self, hub: LocalHub, version: str) -> None:
        """What is not v1.2.3 is refused before anything is sent."""
        with pytest.raises(UserError, match="is not a version"):
            release(FIRST, version)
        assert not hub.repositories


class TestPullRequest:
    """`--create-pr`: reviewed first, tagged when merged."""

    def test_tagged_when_merged(self, hub: LocalHub) -> None:
        """Before the merge main and tags are untouched, and asking again opens no second request."""
        release(FIRST)
        repository = hub.repository(REPO)
        before = repository.branches["main"]
        proposed = release(SECOND, create_pr=True)
        assert proposed.state == "proposed"
        assert proposed.url == f"{hub.url}/{REPO}/discussions/1"
        assert release(SECOND, create_pr=True).url == proposed.url
        assert (repository.branches["main"], list(repository.tags)) == (before, ["v0.1.0"])
        assert len(repository.pull_requests) == 1
        merged = repository.merge(1)
        assert release(SECOND, create_pr=True).state == "finished"
        assert repository.tags["v0.2.0"] == merged
        assert len(repository.pull_requests) == 1

    def test_tagged_when_main_went_on_after_the_merge(self, hub: LocalHub) -> None:
        """Somebody edits the card before the command is run again: the tag is on the merged commit."""
        release(FIRST)
        repository = hub.repository(REPO)
        release(SECOND, create_pr=True)
        merged = repository.merge(1)
        repository.commit("main", "a typo on the card", {"README.md": Blob(b"their card", False)})
        head = repository.branches["main"]
        result = release(SECOND, create_pr=True)
        assert (result.version, result.state, result.commit) == ("v0.2.0", "finished", merged)
        assert repository.tags["v0.2.0"] == merged
        assert repository.branches["main"] == head
        assert released(hub, "v0.2.0") == SECOND


class TestFaults:
    """What happens when the Hub fails in the middle."""

    @pytest.fixture(autouse=True)
    def _first(self, hub: LocalHub) -> None:
        release(FIRST)

    @pytest.mark.parametrize(
        ("operation", "status", "times", "told"),
        [
            ("preupload", 500, 99, "answered 500"),
            ("commit", 500, 99, "answered 500"),
            ("commit", 409, 1, "answered 409"),
            ("commit", 412, 1, "somebody else changed"),
            ("commit", None, 99, "cannot reach the Hub"),
            ("upload", 500, 99, "answered 500"),
            ("upload", None, 99, "cannot reach the Hub"),
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
        assert released(hub, "v0.2.0") == SECOND
        assert released(hub, "v0.1.0") == FIRST

    def test_one_dropped_connection_in_an_upload_is_tried_again(self, hub: LocalHub) -> None:
        """A file is sent again from its beginning, and arrives whole."""
        hub.fail("upload", None)
        assert release(SECOND).state == "released"
        assert released(hub, "v0.2.0") == SECOND

    @pytest.mark.parametrize("status", [500, None])
    def test_commit_whose_answer_is_lost_is_released(self, hub: LocalHub, status: int | None) -> None:
        """The client finds its own commit at the head and goes on to the tag: no second commit."""
        hub.fail("commit", status, after=True)
        assert release(SECOND).state == "released"
        assert len(hub.repository(REPO).history("main")) == 3
        assert released(hub, "v0.2.0") == SECOND

    @pytest.mark.parametrize(("status", "after"), [(500, False), (500, True), (None, True)])
    def test_one_failed_tag_is_tried_again(self, hub: LocalHub, status: int | None, after: bool) -> None:
        """Also when the tag was made and only its answer was lost."""
        hub.fail("tag", status, after=after)
        assert release(SECOND).state == "released"
        assert released(hub, "v0.2.0") == SECOND

    def test_crash_between_commit_and_tag_is_finished_by_a_second_run(self, hub: LocalHub) -> None:
        """The second run adds the tag to the commit that is there, and no commit; the version stays."""
        hub.fail("tag", 500, times=4)
        with pytest.raises(UserError, match=r"tagging v0\.2\.0"):
            release(SECOND)
        head = hub.repository(REPO).branches["main"]
        result = release({**SECOND, "README.md": b"rendered anew"})
        assert (result.version, result.state, result.commit) == ("v0.2.0", "finished", head)
        assert hub.repository(REPO).branches["main"] == head
        assert released(hub, "v0.2.0") == SECOND

    def test_such_a_crash_and_then_another_commit(self, hub: LocalHub) -> None:
        """The commit is found below theirs, also when its version is named."""
        hub.fail("tag", 500, times=4)
        with pytest.raises(UserError, match=r"tagging v0\.2\.0"):
            release(SECOND)
        ours = hub.repository(REPO).branches["main"]
        hub.repository(REPO).commit("main", "theirs", {"notes.md": Blob(b"x", False)})
        assert release(SECOND, "v0.2.0").state == "finished"
        assert hub.repository(REPO).tags["v0.2.0"] == ours

    def test_such_a_crash_and_then_a_rollback(self, hub: LocalHub) -> None:
        """What was rolled back is not made a release behind the back of who did it: it is committed anew."""
        hub.fail("tag", 500, times=4)
        with pytest.raises(UserError):
            release(SECOND)
        rollback(REPO, "v0.1.0")
        assert release(SECOND).state == "released"
        assert released(hub, "main") == released(hub, "v0.2.0") == SECOND

    def test_other_files_after_such_a_crash_get_a_commit_of_their_own(self, hub: LocalHub) -> None:
        """An untagged commit with other content is not taken for this release."""
        hub.fail("tag", 500, times=4)
        with pytest.raises(UserError):
            release(SECOND)
        third = {**SECOND, "model.safetensors": b"3" * 2000}
        assert release(third).version == "v0.2.0"
        assert released(hub, "v0.2.0") == third

    def test_parent_that_moved(self, hub: LocalHub) -> None:
        """A commit by somebody else between reading and committing stops the release; theirs is kept."""
        repository = Repository(connect(write=True), REPO)
        state = repository.state()
        plan = plan_release(repository, state, None, SECOND)
        theirs = hub.repository(REPO).commit("main", "theirs", {})[0]
        with pytest.raises(UserError, match="somebody else changed the repository meanwhile"):
            publish(repository, plan, SECOND, parent=state.head)
        assert hub.repository(REPO).branches["main"] == theirs
        assert list(hub.repository(REPO).tags) == ["v0.1.0"]

    def test_tag_of_somebody_else(self, hub: LocalHub) -> None:
        """A version that another run tagged meanwhile stays theirs."""
        repository = Repository(connect(write=True), REPO)
        state = repository.state()
        plan = plan_release(repository, state, None, SECOND)
        hub.repository(REPO).tag("v0.2.0", state.head)
        with pytest.raises(UserError, match="answered 409"):
            publish(repository, plan, SECOND, parent=state.head)
        assert hub.repository(REPO).tags["v0.2.0"] == state.head


class TestBusyHub:
    """Too many requests, an outage, lost connections: waited for, within bounds, and told."""

    @pytest.mark.parametrize("operation", ["whoami", "read", "create", "commit", "tag"])
    @pytest.mark.parametrize("status", [429, 503])
    def test_waits_as_the_hub_asks(
        self, hub: LocalHub, operation: str, status: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Two refusals with `Retry-After: 1` end no release."""
        caplog.set_level("INFO", "arxiv_cls")
        hub.fail(operation, status, times=2, Retry_After="1")
        assert release(FIRST).state == "released"
        assert released(hub, "v0.1.0") == FIRST
        assert f"the Hub answered {status}, waiting 1 s" in caplog.text

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

    def test_wrong_token(self, hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
        """The token itself is in no message and in no chained exception."""
        wrong = "hf_" + "wrongtoken" * 3
        monkeypatch.setenv("HF_TOKEN", wrong)
        with pytest.raises(UserError, match="the token is not valid") as failure:
            release(FIRST)
        assert wrong not in str(failure.value)
        assert failure.value.__suppress_context__
        assert not hub.repositories

    def test_no_token(self, hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
        """Both ways to give one are named."""
        monkeypatch.delenv("HF_TOKEN")
        with pytest.raises(UserError, match="no token") as failure:
            release(FIRST)
        assert "HF_TOKEN" in str(failure.value)
        assert "hf auth login" in str(failure.value)
        assert not hub.requests

    def test_no_network(self, hub: LocalHub) -> None:
        """One line that names the address; exit code 3."""
        hub.__exit__()
        with pytest.raises(UserError, match=f"cannot reach the Hub at {hub.url}") as failure:
            release(FIRST)
        assert failure.value.exit_code == 3


class TestRollback:
    """An older version becomes current by a new commit."""

    def test_rollback_restores_exactly_the_older_files(self, hub: LocalHub) -> None:
        """Nothing is removed from history or tags, and a new release goes on from there."""
        release(FIRST)
        release(SECOND)
        head = rollback(REPO, "v0.1.0")
        repository = hub.repository(REPO)
        assert released(hub, "main") == FIRST
        assert repository.branches["main"] == head
        assert repository.history("main")[0].title == "Roll back to v0.1.0"
        assert list(repository.tags) == ["v0.1.0", "v0.2.0"]
        assert read_state(connect(write=False), REPO).current_version == "v0.1.0"
        assert rollback(REPO, "v0.1.0") == head
        assert release({**SECOND, "run.json": b"[]"}).version == "v0.3.0"

    def test_unknown_version(self, hub: LocalHub) -> None:
        """The versions that exist are named."""
        release(FIRST)
        with pytest.raises(UserError, match=r"has no version v9\.9\.9") as refusal:
            rollback(REPO, "v9.9.9")
        assert "v0.1.0" in str(refusal.value)
