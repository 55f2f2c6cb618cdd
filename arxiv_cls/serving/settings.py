"""Settings of a server: each is an option of its command and a variable, of `serve` ARXIV_CLS_*.

The command line wins over the variable, the variable over the default. The token is a variable only: an
option would show in the list of processes.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AliasChoices, BeforeValidator, Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from arxiv_cls.errors import UserError

ENV_PREFIX = "ARXIV_CLS_"
# Addresses with a meaning of their own, which Vertex AI's routes cannot take.
POST_ROUTES = ("/", "/load", "/feedback")
GET_ROUTES = ("/", "/health/live", "/info", "/metrics", "/monitoring", "/docs", "/openapi.json")
PLAIN_ROUTE = re.compile(r"/[\w.~:@/-]*")
HUB_ID = re.compile(r"[\w][\w.-]*/[\w][\w.-]*(@[\w][\w./-]*)?")


def _split(value: Any) -> Any:
    return tuple(part for part in re.split(r"[,\s]+", value) if part) if isinstance(value, str) else value


def _variables(*names: str, prefix: str = ENV_PREFIX) -> AliasChoices:
    return AliasChoices(f"{prefix}{names[0]}", *names[1:])


Words = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]


class ServerSettings(BaseSettings):
    """Where a server listens and the limits of its requests; `MODEL` is the argument of its command.

    Raises:
        UserError: every value that does not fit, at once, under the name of its option or variable.
    """

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_ignore_empty=True, frozen=True, extra="forbid", loc_by_alias=False,
        validate_by_name=True, allow_inf_nan=False, protected_namespaces=(),
    )  # fmt: skip
    command: ClassVar[str] = "serve"
    # Settings that only a variable sets.
    not_options: ClassVar[tuple[str, ...]] = ("token",)

    model: str = Field(description="model directory or Hub id, also user/name@v0.1.0")
    host: str = Field("127.0.0.1", description="address to listen on; 0.0.0.0 for every network")
    port: int = Field(
        8000, ge=0, le=65535, description="port to listen on; 0 takes a free one",
        validation_alias=_variables("PORT", "AIP_HTTP_PORT", "PORT"),
    )  # fmt: skip
    root_path: str = Field("", description="prefix that a proxy puts before addresses, such as /papers")
    max_body: int = Field(2 * 1024 * 1024, ge=1, description="bytes in one request; more get 413")
    body_timeout: float = Field(10.0, ge=0.01, description="seconds in which a request must have arrived")
    max_connections: int = Field(1024, ge=1, description="open connections; more get 503")
    shutdown_timeout: float = Field(30.0, ge=0, description="seconds to finish accepted requests at the end")
    cors_origins: Words = Field((), description="web origins whose pages may call, with commas; else none")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="lowest level logged")
    token: str | None = Field(
        None, repr=False, exclude=True, description="token that POST /load and /feedback ask for; none: off",
        validation_alias=_variables("TOKEN"),
    )  # fmt: skip

    def __init__(self, **given: Any) -> None:
        try:
            super().__init__(**given)
        except ValidationError as error:
            problems = [self._explained(problem, given) for problem in error.errors()]
            hint = f"`arxiv-cls {self.command} --help` lists the settings."
            raise UserError("\n".join(problems), hint=hint) from None

    @field_validator("root_path")
    @classmethod
    def _prefix(cls, path: str) -> str:
        if path and not PLAIN_ROUTE.fullmatch(path):
            raise ValueError("a path like /classifier is expected")
        return path.rstrip("/")

    @property
    def texts_per_request(self) -> int:
        """Texts in one request."""
        return 1

    @classmethod
    def _explained(cls, problem: Any, given: dict[str, Any]) -> str:
        """One of pydantic's problems as option or variable, value, what is expected."""
        name = str(problem["loc"][0])
        field, option = cls.model_fields[name], "--" + name.replace("_", "-")
        variable = str(cls.model_config.get("env_prefix")) + name.upper()
        if problem["type"] == "missing":
            which = "one" if name == "model" else option
            return f"{cls.command}: no {name}: name {which}, or set {variable}"
        aliases = field.validation_alias
        variables = aliases.choices if isinstance(aliases, AliasChoices) else [variable]
        where = next((one for one in variables if os.environ.get(str(one))), variables[-1])
        if name in given and name not in cls.not_options:
            where = option
        value = ",".join(problem["input"]) if isinstance(problem["input"], tuple) else problem["input"]
        # A setting that is left out of records is a secret.
        shown = "" if field.exclude else f" {value}"
        reason = problem["msg"].removeprefix("Value error, ").removeprefix("Input ")
        return f"{cls.command}: {where}{shown}: {reason}"


class ServingSettings(ServerSettings):
    """What the endpoint serves and where its limits are; errors as of `ServerSettings`."""

    not_options: ClassVar[tuple[str, ...]] = ("token", "predict_route", "health_route")

    engine: Literal["torch", "onnx", "int8"] | None = Field(
        None, description="torch, onnx or int8 (default: onnx; in a cascade, what it was fitted with)"
    )
    cascade: str | None = Field(None, description="baseline that answers first, where it is sure (directory)")
    threads: int | None = Field(None, ge=1, description="CPU threads (default: the engine's own choice)")
    models_dir: str | None = Field(
        None, description="directory that POST /load may load models from (default: the one that holds MODEL)"
    )
    allow_hub: Words = Field((), description="Hub ids that POST /load may switch to, with commas")
    max_batch_tokens: int = Field(2048, ge=1, description="tokens that are computed together")
    max_queue: int = Field(256, ge=1, description="texts that wait or are computed; more get 429")
    max_wait: float = Field(5.0, ge=0.01, description="longest wait in the queue, seconds; longer gets 429")
    max_texts: int = Field(64, ge=1, description="texts in one request")
    max_characters: int = Field(50_000, ge=1, description="characters in one text")
    request_log: str | None = Field(
        None, description="directory or gs://bucket/folder that gets a JSON line per text, for monitoring"
    )
    request_log_texts: bool = Field(False, description="write the texts themselves into the request log")
    request_log_rotate_mb: float = Field(64.0, ge=0.001, description="megabytes of a file of the request log")
    request_log_rotate_minutes: float = Field(15.0, ge=0.001, description="minutes until a new file starts")
    request_log_keep: int = Field(0, ge=0, description="newest files kept of a local log (default: all)")
    feedback_log: str | None = Field(
        None, description="directory or gs://bucket/folder that gets the labels of POST /feedback"
    )
    monitoring: str | None = Field(
        None, description="directory or gs://bucket/folder whose report.html GET /monitoring shows"
    )
    log_texts: bool = Field(False, description="write the texts into the server's own log (debugging)")
    predict_route: str = Field(
        "/predict", description="Vertex AI's route of predictions",
        validation_alias=_variables("PREDICT_ROUTE", "AIP_PREDICT_ROUTE"),
    )  # fmt: skip
    health_route: str = Field(
        "/health", description="Vertex AI's route of health",
        validation_alias=_variables("HEALTH_ROUTE", "AIP_HEALTH_ROUTE"),
    )  # fmt: skip

    @field_validator("allow_hub")
    @classmethod
    def _hub_ids(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if not all(map(HUB_ID.fullmatch, names)):
            raise ValueError("not a Hub id user/name")
        return names

    @field_validator("predict_route", "health_route")
    @classmethod
    def _free_route(cls, route: str, info: Any) -> str:
        if not PLAIN_ROUTE.fullmatch(route):
            raise ValueError("a path like /v1/answer is expected")
        if route in (POST_ROUTES if info.field_name == "predict_route" else GET_ROUTES):
            raise ValueError("this address has another meaning here")
        return route

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
