"""The benchmarks: a side that fails is one clear error, and each runs on the sample."""

import pytest


class TestFailingSide:
    """Each side is a process of its own; what it says comes first, then one line of the benchmark."""

    @pytest.mark.parametrize("name", ["corpus", "baseline", "training"])
    def test_no_traceback(self, name, tmp_path, run_python):
        """A CSV with no rows: the side that met it is named."""
        csv = tmp_path / "papers.csv"
        csv.write_text("id,title,category_code,published_date,summary\n")
        words = {"corpus": ["--repeats", "1"], "baseline": ["--seeds", "42", "--skip-stock"]}.get(name, [])
        done = run_python(f"benchmarks/bench_{name}.py", "--csv", csv, *words)
        assert done.returncode == 2
        assert "a header and no rows" in done.stderr
        assert "ended with exit status 2" in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.slow
class TestOnTheSample:
    """One short run each."""

    @pytest.mark.parametrize(
        ("name", "words", "printed"),
        [("corpus", ["--repeats", "1"], "ratio ours / stock"),
         ("baseline", ["--seeds", "42", "--skip-stock"], "macro-F1"),
         ("training", ["--papers", "32", "--sides", "stock", "ours-frozen-half"], "ours-frozen-half")],
    )  # fmt: skip
    def test_runs(self, name, words, printed, sample_csv, run_python):
        """It ends with its figures."""
        done = run_python(f"benchmarks/bench_{name}.py", "--csv", sample_csv, *words)
        assert done.returncode == 0, done.stderr
        assert printed in done.stdout
