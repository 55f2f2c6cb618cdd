"""Settings of the service: options of `arxiv-cls monitor serve` and variables ARXIV_CLS_MONITOR_*."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import ClassVar

from pydantic import AliasChoices, Field, field_validator
from pydantic_settings import SettingsConfigDict

from arxiv_cls.serving.settings import ServerSettings, Words

PREFIX = "ARXIV_CLS_MONITOR_"
_DURATION = re.compile(r"(\d{1,5})([mhdw])")
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def duration(text: str) -> timedelta | None:
    """A time such as 30m, 12h, 7d or 2w; None for another text."""
    found = _DURATION.fullmatch(text)
    return timedelta(**{_UNITS[found[2]]: int(found[1])}) if found else None


class MonitorSettings(ServerSettings):
    """What the service compares, how often, and where the results go; errors as of `ServerSettings`."""

    model_config = SettingsConfigDict(env_prefix=PREFIX)
    command: ClassVar[str] = "monitor serve"

    port: int = Field(
        8001, ge=0, le=65535, description="port to listen on; 0 takes a free one",
        validation_alias=AliasChoices(f"{PREFIX}PORT", "PORT"),
    )  # fmt: skip
    max_body: int = Field(64 * 1024, ge=1, description="bytes in one request; more get 413")
    max_connections: int = Field(256, ge=1, description="open connections; more get 503")
    shutdown_timeout: float = Field(5.0, ge=0, description="seconds to finish accepted requests at the end")
    log: str = Field(description="request log: a directory, one file or gs://bucket/prefix")
    out: str = Field("outputs/monitor", description="directory or gs://bucket/prefix that keeps the results")
    every: str = Field("1h", description="time from run to run, such as 30m, 1h or 1d")
    since: str = Field("30d", description="what is compared of the log, also with labels: an age or a date")
    window: int = Field(300, ge=100, description="distinct texts that are tested together")
    version: Words = Field((), description="also what the log calls this model, such as v1.2.0, with commas")
    labels: str | None = Field(
        None, description="labels that came later: a file, a directory or gs://bucket/prefix"
    )
    webhook: str | None = Field(
        None, repr=False, exclude=True,
        description=f"address that is told of alarms; {PREFIX}WEBHOOK keeps it out of the list of processes",
    )  # fmt: skip

    @field_validator("every")
    @classmethod
    def _interval(cls, text: str) -> str:
        if not duration(text):
            raise ValueError("a time such as 30m, 1h or 1d is expected")
        return text

    @field_validator("webhook")
    @classmethod
    def _address(cls, address: str | None) -> str | None:
        if address and not re.fullmatch(r"https?://[!-~]+", address):
            raise ValueError("an address https://... is expected")
        return address

    @property
    def interval(self) -> float:
        """Seconds from run to run."""
        every = duration(self.every)
        assert every
        return every.total_seconds()
