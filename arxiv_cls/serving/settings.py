"""Settings of the endpoint: each is an option of `arxiv-cls serve` and a variable ARXIV_CLS_*.

The command line wins over the variable, the variable over the default. The token is a variable only: an
option would show in the list of processes.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arxiv_cls.errors import UserError

ENV_PREFIX = "ARXIV_CLS_"
# Addresses with a meaning of their own, which Vertex AI's routes cannot take.
POST_ROUTES = ("/", "/load")
GET_ROUTES = ("/", "/health/live", "/info", "/metrics", "/monitoring", "/docs", "/openapi.json")
PLAIN_ROUTE = re.compile(r"/[\w.~:@/-]*")
HUB_ID = re.compile(r"[\w][\w.-]*/[\w][\w.-]*(@[\w][\w./-]*)?")


def _whole(text: str) -> int:
    return int(text.replace("_", ""))


def _flag(text: str) -> bool:
    value = {"1": True, "true": True, "yes": True, "on": True, "": False}.get(text.strip().lower())
    if value is None and text.strip().lower() not in ("0", "false", "no", "off"):
        raise ValueError(text)
    return bool(value)


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part for part in re.split(r"[,\s]+", text) if part)


def _engine(text: str) -> str:
    """onnx, int8 or torch"""
    # Not at the top: the models room brings numpy, and `--help` should answer at once.
    from arxiv_cls.models.predictor import ENGINES

    if text not in ENGINES:
        raise ValueError(text)
    return text


def _one_of(*allowed: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in allowed:
            raise ValueError(text)
        return text

    parse.__doc__ = ", ".join(allowed)
    return parse


def setting(
    default: Any,
    help: str,
    parse: Callable[[str], Any] = str,
    *,
    least: float | None = None,
    also: tuple[str, ...] = (),
    option: bool = True,
    secret: bool = False,
) -> Any:
    """A field of the settings.

    Args:
        default: its value when neither option nor variable is given.
        help: one sentence, with the unit.
        parse: makes the value from text; raises ValueError.
        least: smallest value allowed.
        also: variables of platforms that are honoured too, after our own.
        option: whether the command line has it.
        secret: keep it out of `repr` and logs.
    """
    about = {"help": help, "parse": parse, "least": least, "also": also, "option": option, "secret": secret}
    return dataclasses.field(default=default, metadata=about, repr=not secret)


@dataclass(frozen=True)
class ServingSettings:
    """What the endpoint serves and where its limits are."""

    model: str = setting("", "model directory or Hub id, also user/name@v0.1.0")
    host: str = setting("127.0.0.1", "address to listen on; 0.0.0.0 for every network")
    port: int = setting(
        8000, "port to listen on; 0 takes a free one", _whole, least=0, also=("AIP_HTTP_PORT", "PORT")
    )
    engine: str | None = setting(
        None,
        "what computes a transformer: onnx (default; in a cascade, what it was fitted with), int8, torch",
        _engine,
    )
    cascade: str | None = setting(None, "baseline that answers first, where it is sure (a model directory)")
    threads: int | None = setting(
        None, "CPU threads of the engine (default: the engine's own choice)", _whole, least=1
    )
    models_dir: str | None = setting(
        None, "directory whose models POST /load may switch to (default: the one that holds MODEL)"
    )
    allow_hub: tuple[str, ...] = setting((), "Hub ids that POST /load may switch to, with commas", _listed)
    max_batch_tokens: int = setting(2048, "tokens that are computed together", _whole, least=1)
    max_queue: int = setting(256, "texts that wait or are computed; more get 429", _whole, least=1)
    max_wait: float = setting(5.0, "longest wait in the queue, seconds; longer gets 429", float, least=0.01)
    max_texts: int = setting(64, "texts in one request", _whole, least=1)
    max_characters: int = setting(50_000, "characters in one text", _whole, least=1)
    max_body: int = setting(2 * 1024 * 1024, "bytes in one request; more get 413", _whole, least=1)
    body_timeout: float = setting(10.0, "seconds in which a request must have arrived", float, least=0.01)
    max_connections: int = setting(1024, "open connections; more get 503", _whole, least=1)
    shutdown_timeout: float = setting(30.0, "seconds to finish accepted requests at the end", float, least=0)
    cors_origins: tuple[str, ...] = setting(
        (), "web origins whose pages may call, with commas (default: none)", _listed
    )
    request_log: str | None = setting(
        None, "directory or gs://bucket/folder that gets a JSON line per text, for monitoring"
    )
    request_log_texts: bool = setting(False, "write the texts themselves into the request log", _flag)
    request_log_rotate_mb: float = setting(64.0, "megabytes of a file of the request log", float, least=0.001)
    request_log_rotate_minutes: float = setting(
        15.0, "minutes after which a new file starts", float, least=0.001
    )
    request_log_keep: int = setting(
        0, "newest files kept in a local request log; 0 keeps all", _whole, least=0
    )
    log_level: str = setting(
        "info", "lowest level that is logged", _one_of("debug", "info", "warning", "error")
    )
    log_texts: bool = setting(False, "write the texts into the server's own log (debugging)", _flag)
    token: str | None = setting(
        None, "token that POST /load asks for; none: no switching", option=False, secret=True
    )
    predict_route: str = setting(
        "/predict", "Vertex AI's route of predictions", also=("AIP_PREDICT_ROUTE",), option=False
    )
    health_route: str = setting(
        "/health", "Vertex AI's route of health", also=("AIP_HEALTH_ROUTE",), option=False
    )

    def __post_init__(self) -> None:
        if self.engine is None and not self.cascade:
            object.__setattr__(self, "engine", "onnx")
        problems = [*self._out_of_range(), *self._contradictions()]
        if problems:
            raise UserError("\n".join(problems), hint="`arxiv-cls serve --help` lists the settings.")

    def _out_of_range(self) -> list[str]:
        found = []
        for field in dataclasses.fields(self):
            value, least = getattr(self, field.name), field.metadata["least"]
            if least is not None and value is not None and not value >= least:
                found.append(f"serve: {option_name(field)} {value} is below {least:g}")
        return found

    def _contradictions(self) -> list[str]:
        found = []
        if self.port > 65535:
            found.append(f"serve: --port {self.port} is above 65535")
        found += [
            f"serve: --allow-hub {name}: not a Hub id user/name"
            for name in self.allow_hub
            if not HUB_ID.fullmatch(name)
        ]
        for variable, route, taken in (
            ("AIP_PREDICT_ROUTE", self.predict_route, POST_ROUTES),
            ("AIP_HEALTH_ROUTE", self.health_route, GET_ROUTES),
        ):
            if not PLAIN_ROUTE.fullmatch(route):
                found.append(f"serve: {variable} {route}: a path like /v1/answer is expected")
            elif route in taken:
                found.append(f"serve: {variable} {route}: this address has another meaning here")
        return found

    @property
    def texts_per_request(self) -> int:
        """Texts in one request: a request that the empty queue cannot hold could never be accepted."""
        return min(self.max_texts, self.max_queue)

    @property
    def models_directory(self) -> Path | None:
        """Where models that may be switched to lie; None when MODEL is a Hub id and none was named."""
        if self.models_dir:
            return Path(self.models_dir).expanduser()
        model = Path(self.model).expanduser()
        return model.resolve().parent if model.is_dir() else None

    def public(self) -> dict[str, Any]:
        """The settings without the secrets, for the log."""
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if not field.metadata["secret"]
        }


def option_name(field: dataclasses.Field) -> str:
    """`--max-queue` for the field `max_queue`; the variable where there is no option."""
    if not field.metadata["option"]:
        return ENV_PREFIX + field.name.upper()
    return field.name.upper() if field.name == "model" else "--" + field.name.replace("_", "-")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Gives a parser an option for each setting; a value that was not given stays None."""
    for field in dataclasses.fields(ServingSettings):
        if not field.metadata["option"]:
            continue
        about, parse = field.metadata["help"], field.metadata["parse"]
        if field.name == "model":
            parser.add_argument("model", metavar="MODEL", nargs="?", help=about)
        elif parse is _flag:
            parser.add_argument(option_name(field), action="store_const", const="true", help=about)
        else:
            plain = field.default not in (None, ())
            shown = f"{about} (default {field.default})" if plain else about
            parser.add_argument(option_name(field), metavar=field.name.upper(), help=shown)


def settings_from(arguments: argparse.Namespace, environ: Mapping[str, str]) -> ServingSettings:
    """The settings of a command line and an environment.

    Raises:
        UserError: every value that does not fit, at once.
    """
    values: dict[str, Any] = {}
    problems: list[str] = []
    for field in dataclasses.fields(ServingSettings):
        own = ENV_PREFIX + field.name.upper()
        given = getattr(arguments, field.name, None)
        where = option_name(field)
        if given is None:
            where = next((name for name in (own, *field.metadata["also"]) if environ.get(name)), "")
            given = environ.get(where) if where else None
        if given is None:
            continue
        try:
            values[field.name] = field.metadata["parse"](given)
        except ValueError:
            allowed = field.metadata["parse"].__doc__ or "see --help"
            kind = {_whole: "a whole number", float: "a number", _flag: "true or false"}
            problems.append(f"serve: {where} {given}: expected {kind.get(field.metadata['parse'], allowed)}")
    if not values.get("model"):
        problems.append(f"serve: no model: name one, or set {ENV_PREFIX}MODEL")
    if problems:
        raise UserError("\n".join(problems), hint="`arxiv-cls serve --help` lists the settings.")
    return ServingSettings(**values)
