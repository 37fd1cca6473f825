"""The training loop, for all objectives and any number of ranks."""

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import NoReturn

import paddle

from vilg import checkpoint, config
from vilg.checkpoint import CheckpointInfo, CheckpointManager
from vilg.data.loader import Batch, fingerprint
from vilg.distributed.engine import Engine
from vilg.distributed.states import replicated
from vilg.distributed.stop_signals import report_stop, stop_requested
from vilg.distributed.world import World
from vilg.errors import UserError
from vilg.model.freezing import freeze
from vilg.progress import Progress
from vilg.training import resuming
from vilg.training.cadence import Cadence, Interval
from vilg.training.discriminators import Adversaries
from vilg.training.dump import dump_inputs
from vilg.training.interruption import StepInterruptedError
from vilg.training.metrics import MetricsWriter
from vilg.training.objective import Objective
from vilg.training.optimizer import adamw
from vilg.training.schedules import learning_rate
from vilg.training.seed import step_seed
from vilg.training.spikes import NOT_FINITE, SpikeError, Spikes
from vilg.training.step_metrics import StepMetrics
from vilg.training.step_profiler import StepProfiler
from vilg.training.update import Update

log = logging.getLogger(__name__)


class TrainingLoop:
    """Trains `objective` with the settings of a run, from its newest checkpoint or from the start."""

    def __init__(self, settings: config.TrainingSettings, objective: Objective, world: World):
        self.settings, self.objective, self.world = settings, objective, world
        self.folder = settings.run.folder
        freeze(objective.model, settings.train.freeze)
        self.engine = Engine(
            world,
            objective.model,
            partial(adamw, settings.train),
            settings.train.max_grad_norm,
            getattr(settings, "distributed", None),
            settings.train.ema_decay,
        )
        # Adversarial models run in fp32 and are not sharded.
        self.adversaries = Adversaries(
            world, objective.adversaries, partial(adamw, settings.train), settings.train.max_grad_norm
        )
        self.step_metrics = StepMetrics(settings.train, objective, self.engine, world)
        self.profiler = StepProfiler(settings.train, self.folder / "profile", world)
        self.spikes = Spikes(settings.train, self.folder, world)
        self._update = Update(objective, self.engine, self.adversaries, self.spikes, world)
        self.step = self.consumed = 0
        self.checkpoints = CheckpointManager(
            checkpoint.location(settings.checkpoint.directory(settings.run)), world, settings.checkpoint
        )
        self._data = fingerprint(settings.data) | {"seed": settings.run.seed, "image_size": settings.data.image_size}
        train, saving = settings.train, settings.checkpoint
        self.cadence = Cadence(
            world,
            {
                "evaluation": Interval(train.eval_every, train.eval_every_minutes),
                "sample_images": Interval(train.sample_images_every, train.sample_images_every_minutes),
                "checkpoint": Interval(saving.every_steps, saving.every_minutes),
            },
        )
        self._stop_requested: Callable[[], bool] = lambda: False

    def run(self) -> None:
        """Train up to `train.steps` (or `train.stop_at`). All ranks call this.

        After SIGTERM, Ctrl-C or SIGHUP to any rank, the current micro-batch is finished, a step that still lacks
        micro-batches is dropped, the last complete step is saved, and the run ends normally.
        """
        self._resume()
        train, timer = self.settings.train, self.step_metrics.timer
        last = min(train.steps, train.stop_at or train.steps)
        self._start()
        with (
            Progress(self.settings.run.name, train.steps, self.step, quiet=not self.world.is_rank_zero) as progress,
            stop_requested() as self._stop_requested,
        ):
            while self.step < last:
                flags = self._sum_flags(
                    stop=self._stop_requested(), ready=self.checkpoints.ready, **self.cadence.overdue()
                )
                if flags["ready"] == self.world.ranks:
                    with timer.part("save"):
                        self.checkpoints.advance()
                if flags["stop"]:
                    self._save_and_stop()
                    break
                try:
                    metrics = self._step_or_pass_over()
                except StepInterruptedError:
                    continue  # the signal is still there
                except UserError:  # on all ranks
                    self._finish_saving()
                    raise
                if metrics is None:
                    continue
                is_due = partial(self.cadence.is_due, step=self.step, is_last=self.step == last, overdue=flags)
                if is_due("evaluation"):
                    with timer.part("evaluation"):
                        metrics.update(self.objective.evaluate())
                images = {}
                if is_due("sample_images"):
                    with timer.part("sample_images"), self.engine.averaged_weights():
                        images = self.objective.sample_images()
                left = train.rampup.ahead(last - self.step, self.consumed)
                metrics.update(self.step_metrics.line(metrics, self._stream.samples, left))
                if self._metrics_writer:
                    self._metrics_writer.write_metrics(metrics)
                    self._metrics_writer.write_images(self.step, images)
                # Save after writing metrics: a resumed run must not lack metrics of steps up to the checkpoint. Later
                # lines are dropped when it resumes.
                if is_due("checkpoint") or self.step == last:
                    with timer.part("save"):
                        self._save()
                progress.advance(self.step - progress.done, **self._progress(metrics))
            self.profiler.stop()
            self.checkpoints.finish()
            self._require_saved()
        if self._metrics_writer:
            self._metrics_writer.close()
            if self.step >= train.steps:
                self.objective.on_train_end(self.folder)
        self.world.barrier()

    def _start(self) -> None:
        """Open the records and the data of the run at the current step."""
        with self.world.fail_together():
            self._metrics_writer = self._open_metrics()
            self._stream = self.objective.batches(self.consumed)
        self._batches = self.step_metrics.timer.each("data", self._stream)
        self.spikes.write()

    def _progress(self, metrics: dict[str, float]) -> dict[str, float]:
        """The values that the progress line shows."""
        unit = self.objective.throughput_unit
        shown = {"loss": metrics["loss"], f"{unit}/s": metrics[f"{unit}_per_second"], "mfu": metrics.get("mfu")}
        return {name: value for name, value in shown.items() if value is not None}

    def _step_or_pass_over(self) -> dict[str, float] | None:
        """`_train_step`, or None for a step that was not taken, after which train.on_spike has been followed."""
        try:
            with self.profiler.step(self.step + 1):
                return self._train_step(self._batches)
        except SpikeError as spike:  # on all ranks
            self._pass_over(spike)
            return None

    def _train_step(self, batches: Iterator[Batch]) -> dict[str, float]:
        """Make one optimizer update and return its line of metrics.jsonl.

        Raises SpikeError for a step that must not be taken; with train.on_spike=stop, UserError.
        """
        began = time.perf_counter()
        train = self.settings.train
        batch = train.rampup.at(self.consumed)
        accumulation = train.accumulation(self.world.ranks, batch)
        # All random numbers of a step follow from (seed, step, rank), so checkpoints store no generator state.
        paddle.seed(step_seed(self.settings.run.seed, self.step, self.world.rank))
        self.objective.on_step_begin(self.step + 1)
        with self.world.fail_together():  # one rank may exceed data.max_bad_samples
            inputs = [self.objective.prepare_batch(next(batches)) for _ in range(accumulation)]
        try:
            updated = self._update(inputs, learning_rate(train, self.step + 1), self._stop_requested)
        except SpikeError as spike:
            if train.on_spike == "stop":
                self._stop(spike, inputs)
            raise
        self.step += 1
        self.consumed += batch
        extra = self.objective.on_step_end(self.step)
        seconds = time.perf_counter() - began
        units = sum(map(self.objective.throughput_units, inputs)) * self.world.ranks
        return {
            "step": self.step,
            **updated,
            f"{self.objective.throughput_unit}_per_second": units / seconds,
            "seconds": seconds,
            "global_batch": batch,
            "consumed_samples": self.consumed,
            **extra,
        }

    def _open_metrics(self) -> MetricsWriter | None:
        if not self.world.is_rank_zero:
            return None
        metrics_writer = MetricsWriter(self.folder, self.step)
        # What this start allowed must not be allowed again by whoever starts with the file.
        settings = replace(self.settings, resume=replace(self.settings.resume, allow=[]))
        config.save(settings, self.folder / "settings.yaml")
        return metrics_writer

    def _sum_flags(self, **flags: bool) -> dict[str, float]:
        """The number of ranks on which each flag is true."""
        return self.world.sum({name: float(value) for name, value in flags.items()})

    def _save(self) -> None:
        extra = [replicated(f"extra/{name}", value, self.world.ranks) for name, value in self.objective.state().items()]
        self.checkpoints.save(
            self.engine.state() + self.adversaries.state() + extra,
            CheckpointInfo(
                self.step,
                self.consumed,
                config.as_tree(self.settings),
                self.objective.tokenizers(),
                self._data,
                self.engine.loss_scale,
                self.spikes.state(),
            ),
        )

    def _save_and_stop(self) -> None:
        self.checkpoints.finish()
        if self.checkpoints.newest_step != self.step:
            self._save()
            self.checkpoints.finish()
        self._require_saved()
        report_stop()
        if self.world.is_rank_zero and self.step:
            log.info("stopped: step %d is saved; resume=auto continues from it", self.step)

    def _require_saved(self) -> None:
        """Raise UserError unless the last step has been saved. A failed save may be ignored earlier, but not here."""
        if self.checkpoints.newest_step != self.step:
            reason = f"; {self.checkpoints.last_failure}" if self.checkpoints.last_failure else ""
            raise UserError(
                f"step {self.step} could not be saved; newest checkpoint: {self.checkpoints.newest or 'none'}{reason}"
            )

    def _finish_saving(self) -> None:
        """Wait for a save before another error is raised, which an error of the save must not hide."""
        try:
            self.checkpoints.finish()
        except UserError as error:
            log.error("%s", error)

    def _resume(self) -> None:
        chosen = resuming.choose_checkpoint(self.settings, self.checkpoints.folder, self.world)
        if chosen is None:
            return
        with self.world.fail_together():
            reader = checkpoint.CheckpointReader(chosen)
            step_directory = checkpoint.step_directory(reader.manifest.step)
            own = checkpoint.same_location(chosen, checkpoint.join(self.checkpoints.folder, step_directory))
            resuming.check_compatible(chosen, reader.manifest, self.settings, self.objective.tokenizers(), self._data)
            resuming.check_changes(chosen, reader.manifest, self.settings, own, quiet=not self.world.is_rank_zero)
        self._load(reader)
        if self.world.is_rank_zero:
            log.info("resumed %s at step %d, after %d samples", chosen, self.step, self.consumed)
        resuming.remove_later_checkpoints(self.settings, self.checkpoints.folder, self.step, self.world)
        if own:
            self.checkpoints.continue_after(chosen, self.step)
        else:  # so that resume=auto, which restarts use, finds it among the run's own checkpoints
            self._save()
            self.checkpoints.finish()

    def _load(self, reader: checkpoint.CheckpointReader) -> None:
        """Load a verified checkpoint. All ranks call this."""
        with self.world.fail_together():
            resuming.load_states(reader, self.engine, self.adversaries, self.objective)
        self.step, self.consumed = reader.manifest.step, reader.manifest.consumed_samples
        self.spikes.load_state(reader.manifest.spikes)

    def _pass_over(self, spike: SpikeError) -> None:
        """Continue with the data after a step that was not taken, with the weights before it or of the checkpoint."""
        step, begin = self.step + 1, self.consumed
        end = begin + self.settings.train.rampup.at(begin)
        self.spikes.check_limit(spike, step)
        if self.settings.train.on_spike == "skip":
            self.spikes.record(spike, step, begin, end)
            self.consumed = end
            return
        self.checkpoints.finish()
        newest, records = self.checkpoints.newest, self.spikes.records
        if newest is None:
            raise UserError(f"step {step}: {spike}; train.on_spike=rollback, but there is no checkpoint yet")
        checkpoint.verify(newest, self.world)
        self._load(checkpoint.CheckpointReader(newest))
        self.spikes.records = records
        self.spikes.record(spike, step, self.consumed, end)
        self.consumed = end
        # Replaces the checkpoint, so that a restart passes over the same data.
        self._save()
        if self._metrics_writer:
            self._metrics_writer.close()
        self._start()

    def _stop(self, spike: SpikeError, inputs: list) -> NoReturn:
        kind = "nonfinite" if spike.reason == NOT_FINITE else "spike"
        file = self.folder / f"{kind}-step-{self.step + 1:08d}-rank-{self.world.rank:05d}.npz"
        dump_inputs(file, inputs)
        self._finish_saving()  # before the message names the newest checkpoint
        raise UserError(
            f"step {self.step + 1}: {spike}; newest checkpoint: {self.checkpoints.newest or 'none'}; "
            f"inputs of the step: {file}"
        )
