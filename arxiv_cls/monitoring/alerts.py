"""Tells of a change of state, once: a line in the log, and a message that is sent until a webhook takes it.

The alert is on from the first `alarm` until the next `ok`. What was told is kept with the results: a restart
delivers what was not delivered before it. A process that is killed between a delivery and its record delivers
again, with the same `id`.
"""

from __future__ import annotations

import json
import logging
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

from prometheus_client import Counter

from arxiv_cls.errors import UserError
from arxiv_cls.monitoring.drift import ALARM, OK

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 1
ALERT = "alert.json"
FIRST_PAUSE, LONGEST_PAUSE = 2.0, 300.0
SECONDS_TO_ANSWER = 10


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirected POST would become a GET, at an address that nobody named."""

    def redirect_request(self, *_: Any) -> None:
        return None


_opener = urllib.request.build_opener(_NoRedirect)


class Alerts:
    """The state of the alert, and the thread that delivers to the webhook.

    Args:
        kept: what `save` was given last, also by an earlier process.
        save: keeps it.
        webhook: the address; None for none.
        outcomes: counts messages as "delivered" or "failed".
    """

    def __init__(
        self,
        kept: dict[str, Any] | None,
        save: Callable[[dict[str, Any]], None],
        webhook: str | None,
        outcomes: Counter,
    ) -> None:
        self._kept, self._save, self._webhook, self._outcomes = kept or {}, save, webhook, outcomes
        self._changed, self._ending = threading.Condition(), False
        self._saving = threading.Lock()

    @property
    def on(self) -> bool:
        """Whether the alert is on."""
        return bool(self._kept.get("on"))

    def start(self) -> None:
        """Delivers from now on, first what was not delivered before."""
        if self._webhook:
            threading.Thread(target=self._work, name="webhook", daemon=True).start()

    def note(self, record: dict[str, Any]) -> None:
        """Compares a finished run with what was told last; returns at once."""
        verdict = record["verdict"]
        on = verdict == ALARM or (self.on and verdict != OK)
        if on == self.on:
            return
        since = record["created"] if on else self._kept.get("since")
        about = {"schema_version": SCHEMA_VERSION, "model": record["model"], "on": on, "since": since}
        self._keep(about | {"delivered": not self._webhook, "message": message(record, on, since)})
        shown = {"verdict": verdict, "action": record["action"]}
        logger.warning("drift alarm begins" if on else "drift alarm ends", extra=shown)

    def _keep(self, state: dict[str, Any], instead_of: dict[str, Any] | None = None) -> None:
        with self._changed:
            if instead_of is not None and instead_of is not self._kept:
                return
            self._kept = state
            self._changed.notify()
        # A slow bucket holds up nobody who asks for the state; whoever saves last saves the newest.
        with self._saving:
            try:
                self._save(self._kept)
            except (UserError, OSError) as error:
                # It is told all the same; a restart would tell it again.
                logger.warning("the state of the alert cannot be kept: %s", error)

    def close(self) -> None:
        """Ends the thread; what it did not deliver is delivered after the next start."""
        with self._changed:
            self._ending = True
            self._changed.notify()

    def _work(self) -> None:
        pause = FIRST_PAUSE
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._ending or not self._kept.get("delivered", True))
                if self._ending:
                    return
                kept = self._kept
            if self._sent(kept["message"]):
                pause = FIRST_PAUSE
                self._keep(kept | {"delivered": True}, instead_of=kept)
                continue
            with self._changed:
                # A newer state does not wait for the end of the pause.
                if self._kept is kept and not self._ending:
                    self._changed.wait(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def _sent(self, body: dict[str, Any]) -> bool:
        data, headers = json.dumps(body).encode(), {"Content-Type": "application/json"}
        try:
            request = urllib.request.Request(str(self._webhook), data, headers)
            with _opener.open(request, timeout=SECONDS_TO_ANSWER):
                self._outcomes.labels("delivered").inc()
                return True
        except Exception as error:
            # The address is a secret, which the words of an error may hold: its kind and status are enough.
            status = error.code if isinstance(error, urllib.error.HTTPError) else ""
            logger.warning("the webhook took no message: %s %s", type(error).__name__, status)
            self._outcomes.labels("failed").inc()
            return False


def message(record: dict[str, Any], on: bool, since: str | None) -> dict[str, Any]:
    """One body that Slack, Teams and receivers of Alertmanager's webhook each find their part of.

    Slack: `text`, and `text` and `fallback` of the attachment. Teams: the Adaptive Card in `attachments` (a
    workflow), or `text` (an old connector). Alertmanager's: `version` 4, `status`, `alerts`. Each leaves out
    what it does not know. `id` is the same whenever this message is sent.
    """
    title = f"Drift of {record['model']}: " + ("alarm" if on else "the alarm has ended")
    status, action = "firing" if on else "resolved", record["action"]
    name = {"alertname": "ArxivClsDrift"}
    high = any(group.get("severity") == "high" for group in record["groups"])
    labels = name | {"model": record["model"], "severity": "critical" if high else "warning"}
    annotations = {"summary": title, "description": action}
    alert = {
        "status": status,
        "labels": labels,
        "annotations": annotations,
        "startsAt": since or record["created"],
        # Alertmanager's zero time: it has not ended.
        "endsAt": "0001-01-01T00:00:00Z" if on else record["created"],
        "generatorURL": "",
        "fingerprint": "arxiv-cls-drift",
    }
    block = {"type": "TextBlock", "wrap": True}
    card = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "body": [block | {"text": title, "weight": "Bolder"}, block | {"text": action}],
    }
    attachment = {
        "contentType": "application/vnd.microsoft.card.adaptive",
        "content": card,
        "text": action,
        "fallback": action,
    }
    return {
        "id": f"{record['model']} {status} {record['created']}",
        "text": title,
        "type": "message",
        "attachments": [attachment],
        "version": "4",
        "groupKey": '{}:{alertname="ArxivClsDrift"}',
        "truncatedAlerts": 0,
        "status": status,
        "receiver": "arxiv_cls",
        "groupLabels": name,
        "commonLabels": labels,
        "commonAnnotations": annotations,
        "externalURL": "",
        "alerts": [alert],
    }
