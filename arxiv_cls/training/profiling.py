"""A trace of the first steps of a training, by torch's profiler."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from transformers import TrainerCallback

logger = logging.getLogger(__name__)


class ProfileSteps(TrainerCallback):
    """Records a few steps with torch's profiler, after a step of warm-up.

    The trace opens in Perfetto or chrome://tracing; `operators.txt` is the table of the costly operators.
    """

    def __init__(self, steps: int, folder: Path) -> None:
        self.steps, self.folder = steps, folder
        self.profiler: torch.profiler.profile | None = None

    def on_step_begin(self, args, state, control, **kwargs) -> None:
        """Starts to record at the second step of this process."""
        if not state.is_world_process_zero or self.steps <= 0 or self.profiler is not None:
            return
        activities = [torch.profiler.ProfilerActivity.CPU]
        if torch.cuda.is_available():
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        schedule = torch.profiler.schedule(wait=0, warmup=1, active=self.steps, repeat=1)
        self.profiler = torch.profiler.profile(activities=activities, schedule=schedule, record_shapes=True)
        self.profiler.start()

    def on_step_end(self, args, state, control, **kwargs) -> None:
        """Counts the step, and writes the trace after the last one."""
        if self.profiler is None or self.steps < 0:
            return
        self.profiler.step()
        self.recorded = getattr(self, "recorded", 0) + 1
        if self.recorded > self.steps:
            self._write()

    def on_train_end(self, args, state, control, **kwargs) -> None:
        """Writes what there is when the training was shorter than the recording."""
        if self.profiler is not None and self.steps >= 0:
            self._write()

    def _write(self) -> None:
        self.profiler.stop()
        self.steps = -1
        self.folder.mkdir(parents=True, exist_ok=True)
        self.profiler.export_chrome_trace(str(self.folder / "trace.json"))
        table = self.profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=30)
        (self.folder / "operators.txt").write_text(table, encoding="utf-8")
        logger.info("profile of the first steps: %s", self.folder)
