"""The one training loop, for every kind of objective, on any number of ranks."""

import logging
import math
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import paddle

from vilg import checkpoint, config
from vilg.data.loader import Batch
from vilg.distributed.engine import Engine
from vilg.distributed.states import whole
from vilg.distributed.world import World
from vilg.errors import UserError
from vilg.progress import Progress
from vilg.training.dump import dump_inputs
from vilg.training.objective import Objective
from vilg.training.optimizer import adamw, learning_rate
from vilg.training.records import Records
from vilg.training.seed import step_seed

log = logging.getLogger(__name__)


class Loop:
    """Trains `objective` under the settings of a run, from its newest checkpoint or from nothing."""

    def __init__(self, settings: config.Pretraining | config.ImageTokenizerTraining, objective: Objective,
                 world: World):
        self.settings, self.objective, self.world = settings, objective, world
        self.folder = settings.run.folder
        self.accumulation = settings.train.accumulation(world.ranks)
        self.engine = Engine(world, objective.model, partial(adamw, settings.train), settings.train.clip,
                             getattr(settings, "distributed", None))
        self.step = self.consumed = 0
        self.last_checkpoint: Path | None = None

    def run(self) -> None:
        """Train up to `train.steps` (or `train.stop_at`). Every rank calls this.

        After a SIGTERM to any rank the step is finished and saved, and the run ends as if it had come so far by itself.
        """
        self._resume()
        train = self.settings.train
        last = min(train.steps, train.stop_at or train.steps)
        with self.world.together():
            records = self._open_records()
            batches = self.objective.batches(self.consumed)
        with (Progress(self.settings.run.name, train.steps, self.step, quiet=not self.world.first) as progress,
              self.world.until_sigterm() as stop):
            while self.step < last:
                if stop():
                    self._save_on_sigterm()
                    break
                metrics = self._train_step(batches)
                if self._due(train.measure_every, last):
                    metrics.update(self.objective.measure())
                pictures = self.objective.draw() if self._due(train.draw_every, last) else {}
                if records:
                    records.metrics(metrics)
                    records.pictures(self.step, pictures)
                # Last: a run that is killed behind this goes on from here, and must not lack the step's records. Those
                # of steps behind the checkpoint are dropped.
                if self._due(self.settings.checkpoint.every_steps, last):
                    self._save()
                speed = f"{self.objective.unit}_per_second"
                progress.advance(loss=metrics["loss"], **{self.objective.unit + "/s": metrics[speed]})
        if records:
            records.close()
            if self.step >= train.steps:
                self.objective.finish(self.folder)
        self.world.barrier()

    def _train_step(self, batches: Iterator[Batch]) -> dict[str, float]:
        """One optimizer update; returns its line of metrics.jsonl."""
        began = time.perf_counter()
        train = self.settings.train
        # Whatever is random in a step follows from (seed, step, rank), so a resumed run needs no stored generator.
        paddle.seed(step_seed(self.settings.run.seed, self.step, self.world.rank))
        with self.world.together():  # a rank's reader may meet one broken sample too many
            inputs = [self.objective.prepare(next(batches)) for _ in range(self.accumulation)]
        losses = self._losses(inputs)
        total = sum(self.objective.weight(name) * value for name, value in losses.items())
        if not math.isfinite(total):
            self._stop_on_non_finite(inputs, **{f"loss_{name}": value for name, value in losses.items()})
        lr = learning_rate(train, self.step + 1)
        norm = self.engine.step(lr)
        if not (math.isfinite(norm) or self.engine.may_overflow):
            self._stop_on_non_finite(inputs, grad_norm=norm)
        self.step += 1
        self.consumed += train.global_batch
        extra = self.objective.after_update(self.step)
        seconds = time.perf_counter() - began
        units = sum(map(self.objective.units, inputs)) * self.world.ranks
        return {"step": self.step, "loss": total, **{f"loss_{name}": value for name, value in losses.items()},
                "lr": lr, "grad_norm": norm, f"{self.objective.unit}_per_second": units / seconds,
                "seconds": seconds, "consumed_samples": self.consumed, **extra}

    def _losses(self, inputs: list) -> dict[str, float]:
        """Gradients of the weighted sum of mean losses, and the means over all ranks and micro-batches."""
        counts: dict[str, float] = {}
        for one in inputs:
            for name, count in self.objective.counts(one).items():
                counts[name] = counts.get(name, 0.0) + count
        counts = self.world.sum(counts)
        sums = dict.fromkeys(counts, 0.0)
        # The engine averages over ranks, a mean over all of them is this rank's sum times their number.
        factors = {name: self.objective.weight(name) * self.world.ranks / count for name, count in counts.items()}
        for one in inputs:
            for name, summed in self.engine.micro_step(partial(self.objective.losses, one), factors).items():
                sums[name] += summed
        return {name: value / counts[name] for name, value in self.world.sum(sums).items()}

    def _due(self, every: int, last: int) -> bool:
        return bool(every) and (self.step % every == 0 or self.step == last)

    def _open_records(self) -> Records | None:
        if not self.world.first:
            return None
        records = Records(self.folder, self.step)
        config.save(self.settings, self.folder / "settings.yaml")
        return records

    def _save(self) -> None:
        extra = [whole(f"extra/{name}", value, self.world.ranks) for name, value in self.objective.state().items()]
        self.last_checkpoint = checkpoint.save(
            self.folder / "checkpoints", self.world, self.engine.state() + extra, self.step, self.consumed,
            config.as_tree(self.settings), self.objective.tokenizers(), self.settings.checkpoint.keep_last)

    def _save_on_sigterm(self) -> None:
        saved = self.last_checkpoint is not None and self.last_checkpoint.name == checkpoint.directory_of(self.step)
        if self.step and not saved:
            self._save()
        if self.world.first:
            log.info("SIGTERM: saved step %d, resume=auto goes on from there", self.step)

    def _resume(self) -> None:
        with self.world.together():
            chosen = self._chosen_checkpoint() if self.world.first else None
        chosen = self.world.gather(chosen)[0]
        if chosen is None:
            return
        with self.world.together():
            reader = checkpoint.Reader(chosen)
            self._refuse_other_tokenizers(chosen, reader.manifest)
            extra = [name for name in reader.shapes if name.startswith("extra/")]
            try:
                self.engine.load_state({name: shape for name, shape in reader.shapes.items() if name not in extra},
                                       reader.range)
            except UserError as error:
                raise UserError(f"{chosen}: {error}") from None
        self.objective.load_state({name.removeprefix("extra/"): reader.tensor(name) for name in extra})
        self.step, self.consumed = reader.manifest.step, reader.manifest.consumed_samples
        self.last_checkpoint = chosen
        if self.world.first:
            log.info("resumed %s at step %d", chosen, self.step)

    def _chosen_checkpoint(self) -> Path | None:
        """What `resume` asks for, unless going on from there would leave checkpoints of another future beside it."""
        resume, folder = self.settings.resume, self.folder / "checkpoints"
        chosen = checkpoint.choose(resume, folder)
        if resume == "auto":
            return chosen
        start = 0 if chosen is None else checkpoint.read_manifest(chosen).step
        newer = [path for path in checkpoint.checkpoints_in(folder) if path.name > checkpoint.directory_of(start)]
        if newer:
            raise UserError(f"{newer[-1]}: this run has gone beyond step {start} already; resume=auto goes on from "
                            "there, another run.name starts anew")
        return chosen

    def _refuse_other_tokenizers(self, chosen: Path, manifest: checkpoint.Manifest) -> None:
        for kind, fingerprint in self.objective.tokenizers().items():
            if manifest.tokenizers.get(kind) != fingerprint:
                raise UserError(f"{chosen}: trained with another {kind} tokenizer than these settings name")

    def _stop_on_non_finite(self, inputs: list, **figures: float) -> None:
        file = self.folder / f"nonfinite-step-{self.step + 1:08d}-rank-{self.world.rank:05d}.npz"
        dump_inputs(file, inputs)
        values = ", ".join(f"{name} {value:g}" for name, value in figures.items())
        raise UserError(f"step {self.step + 1}: not finite ({values}); last good checkpoint: "
                        f"{self.last_checkpoint or 'none'}; what was fed: {file}")

