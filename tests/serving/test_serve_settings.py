"""Settings of the endpoint: where they come from, which one wins, what is refused."""

from __future__ import annotations

import pytest
import typer
from command_line import parsed

from arxiv_cls.cli import main
from arxiv_cls.errors import UserError
from arxiv_cls.serving.settings import ServingSettings


@pytest.fixture
def settings(monkeypatch):
    """Makes the settings of `arxiv-cls serve` with these options and variables."""

    def make(*options: str, **environ: str) -> ServingSettings:
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        given = parsed(["serve", *options])
        return ServingSettings(**{name: value for name, value in given.items() if value is not None})

    return make


class TestSources:
    """Option before variable before default."""

    def test_order(self, settings):
        """The option wins over the variable."""
        assert settings("m", ARXIV_CLS_MAX_QUEUE="99").max_queue == 99
        assert settings("m", "--max-queue", "77", ARXIV_CLS_MAX_QUEUE="99").max_queue == 77

    @pytest.mark.parametrize("field", ServingSettings.model_fields)
    def test_every_setting_has_a_variable(self, settings, field):
        """A container can set each by ARXIV_CLS_ and its name."""
        given = {"str": "/x", "int": "300", "float": "7.5", "bool": "true", "tuple[str, ...]": "a/b, c/d"}
        annotation = ServingSettings.model_fields[field].annotation
        kind = getattr(annotation, "__name__", "") if isinstance(annotation, type) else str(annotation)
        kind = next((name for name in given if kind.replace("typing.", "").startswith(name)), "str")
        text = {"engine": "int8", "log_level": "debug"}.get(field, given[kind])
        value = getattr(settings(**{"ARXIV_CLS_MODEL": "m", f"ARXIV_CLS_{field.upper()}": text}), field)
        expected = {"/x": "/x", "300": 300, "7.5": 7.5, "true": True, "a/b, c/d": ("a/b", "c/d")}
        assert value == expected.get(text, text)

    @pytest.mark.parametrize(("variable", "port"), [("PORT", 9001), ("AIP_HTTP_PORT", 9002)])
    def test_ports_of_platforms(self, settings, variable, port):
        """Cloud Run's and Vertex AI's variables count, our own and the option come first."""
        assert settings("m", **{variable: str(port)}).port == port
        assert settings("m", **{variable: str(port), "ARXIV_CLS_PORT": "9003"}).port == 9003

    def test_routes_of_vertex(self, settings):
        """AIP_PREDICT_ROUTE and AIP_HEALTH_ROUTE name the routes."""
        vertex = settings("m", AIP_PREDICT_ROUTE="/v1/answer", AIP_HEALTH_ROUTE="/v1/ready")
        assert (vertex.predict_route, vertex.health_route) == ("/v1/answer", "/v1/ready")

    def test_models_directory(self, settings, tmp_path):
        """The directory that holds MODEL, unless one is named; none for a Hub id."""
        (tmp_path / "a").mkdir()
        assert settings(f"{tmp_path}/a/").models_directory == tmp_path.resolve()
        assert str(settings("user/name", "--models-dir", "/m").models_directory) == "/m"
        assert settings("user/name").models_directory is None

    def test_a_request_fits_the_queue(self, settings):
        """A small queue lowers what one request may hold: more could never be accepted."""
        assert settings("m", "--max-queue", "5").texts_per_request == 5
        assert settings("m", "--max-texts", "7").texts_per_request == 7


def test_token(settings):
    """It comes from the variable only and is in no printed form of the settings."""
    held = settings("m", ARXIV_CLS_TOKEN="hush")
    assert held.token == "hush"
    assert "hush" not in repr(held)
    assert "token" not in held.model_dump()
    with pytest.raises(typer.TyperException):
        settings("m", "--token", "hush")


class TestProblems:
    """Bad settings are refused before anything starts, all of them at once."""

    def test_all_at_once(self, settings):
        """Kind, range and choice of each."""
        with pytest.raises(UserError) as caught:
            settings("--port", "many", "--engine", "magic", "--max-wait", "soon", ARXIV_CLS_LOG_TEXTS="maybe")
        message = str(caught.value)
        for part in (
            "--port many: should be a valid integer",
            "--engine magic: should be 'torch', 'onnx' or 'int8'",
            "--max-wait soon: should be a valid number",
            "ARXIV_CLS_LOG_TEXTS maybe: should be a valid boolean",
            "no model: name one, or set ARXIV_CLS_MODEL",
        ):
            assert part in message

    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            (["--max-queue", "0"], "--max-queue 0: should be greater than or equal to 1"),
            (["--port", "70000"], "--port 70000: should be less than or equal to 65535"),
            (["--allow-hub", "../x"], "--allow-hub ../x: not a Hub id"),
            (["--root-path", "papers"], "--root-path papers: a path like /classifier is expected"),
            (["--max-wait", "nan"], "--max-wait nan: should be a finite number"),
        ],
    )
    def test_values(self, settings, options, expected):
        """Out of range, or contradicting each other."""
        with pytest.raises(UserError, match="serve:") as caught:
            settings("m", *options)
        assert expected in str(caught.value)

    @pytest.mark.parametrize(
        ("variable", "route"),
        [
            *(("AIP_PREDICT_ROUTE", route) for route in ("/", "/load", "v1/answer", "/{text}")),
            *(("AIP_HEALTH_ROUTE", route) for route in ("/", "/health/live", "/info", "/docs")),
        ],
    )
    def test_routes_with_another_meaning(self, settings, variable, route):
        """One would switch the model, another say 200 before it is loaded."""
        with pytest.raises(UserError, match=variable):
            settings("m", **{variable: route})

    def test_unknown_option(self):
        """One line that names it."""
        with pytest.raises(UserError, match="--magic"):
            main(["serve", "m", "--magic"])
