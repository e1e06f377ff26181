"""`finetune`: trains mask-adapted CLIP on PAIRS, stage by stage, resumable at any step, alone or under torchrun."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovseg_model.adaptation_accuracy import ACCURACIES, AccuracyMeter
from ovseg_model.adapted_weights import adapt_clip, export_open_clip, save_adapted, whole_file
from ovseg_model.checkpoint import CHECKPOINT_FILE, changed_names, read_checkpoint, write_checkpoint
from ovseg_model.class_embeddings import ClassEmbeddings, prompt_templates
from ovseg_model.clip import Clip, ClipWeights, first_line, load_clip
from ovseg_model.finetune_options import FinetuneOptions
from ovseg_model.images import FetchOptions
from ovseg_model.interrupts import Interrupts, watch_interrupts
from ovseg_model.labelled_regions import LabelledSet
from ovseg_model.noun_vectors import noun_vectors
from ovseg_model.optimizers import learning_rate_share
from ovseg_model.pair_batches import (
    BatchCounts,
    BatchOptions,
    LoaderState,
    PairBatch,
    batches_per_epoch,
    pair_batches,
)
from ovseg_model.pair_rows import PairSelection, hard_negative_nouns
from ovseg_model.processes import Processes, open_processes
from ovseg_model.training_log import TrainingLog
from ovseg_model.training_state import TrainingState
from ovseg_model.training_texts import Texts
from schemas.errors import UserError

ADAPTED_FILE, EXPORT_FOLDER, NOUNS_FOLDER, RESULT_FILE = "adapted.safetensors", "open_clip", "nouns", "result.json"

LOG_COLUMNS = (
    *("step", "stage", "epoch", "loss", "learning_rate", "logit_scale", "pairs_per_s"),
    *ACCURACIES,
)

NO_ROWS = ("save_every", "log_every", "workers", "compile")
"""Options that decide when and how fast, but no weight: a run may go on with others."""


@dataclass(frozen=True)
class Finetuning:
    """All that a run of training is made of."""

    pairs: PairSelection
    weights: ClipWeights
    options: FinetuneOptions
    fetch: FetchOptions
    labelled: LabelledSet | None
    """What accuracy is measured on, before, after each epoch, and after; None measures nothing."""

    output: Path

    def made_by(self) -> dict[str, Any]:
        """What decides the weights: a checkpoint goes on only with the same."""
        decides = {name: value for name, value in dataclasses.asdict(self.options).items() if name not in NO_ROWS}
        rows = hashlib.sha256(json.dumps([self.pairs.files, self.pairs.nouns]).encode())
        for group in self.pairs.groups:
            rows.update(f"{group.file} {group.group} ".encode() + group.rows_N.tobytes())
        return {**decides, "clip": self.weights.fingerprint(), "pairs": rows.hexdigest()}

    def identity(self) -> dict[str, Any]:
        """The same and what is measured: a folder's checkpoint, log and result belong to one of them."""
        return {**self.made_by(), "eval_set": self.labelled.name if self.labelled else ""}


def finetune(run: Finetuning, device: str = "auto", say: Callable[[str], None] = print) -> dict[str, Any]:
    """Trains until all stages are done, from the folder's checkpoint if there is one; returns what result.json holds.

    The output folder gets adapted.safetensors (`load_adapted` opens it), for a model without prompts and alpha also
    open_clip/ (plain open_clip and `--clip` open it), training.csv, tensorboard/ and result.json. Ctrl-C and SIGTERM
    end the step, write a checkpoint and raise KeyboardInterrupt; a second one raises it at once.

    Raises UserError for a device or a micro-batch that cannot be, a checkpoint of other options or of other processes,
    and a loss or gradient that is not a number: the last checkpoint stands.
    """
    done = _finished(run)
    if done is not None:
        say(f"{run.output}: is trained already; remove {RESULT_FILE} to train again")
        return done
    with open_processes(device) as processes, watch_interrupts() as interrupts:
        _check_batch(run.options, processes)
        clip = load_clip(run.weights, processes.device)
        state = _open_state(run, clip, processes)
        saved = read_checkpoint(run.output, run.identity())
        if saved is not None:
            state.restore(saved["training"])
        _check_same_step(run, state.at.step, processes)
        trainer = _Trainer(run, clip, state, processes, say, interrupts)
        if saved is not None:
            trainer.saved_counts = BatchCounts(**saved["counts"]) if processes.first else BatchCounts()
            trainer.say(f"going on at step {state.at.step:,}, stage {state.stage}")
        try:
            return trainer.train()
        except FloatingPointError as error:
            kept = (
                "the last checkpoint stands, but would lead here again" if saved or state.at.step else "nothing is lost"
            )
            raise UserError(
                f"{run.output}: {error}; {kept}: train into another --output with a lower learning rate, a longer "
                "--warmup or --precision fp32"
            ) from error


def _finished(run: Finetuning) -> dict[str, Any] | None:
    """What result.json holds, where the same run is done; refuses a folder that another run has finished in."""
    path = run.output / RESULT_FILE
    if not path.is_file():
        return None
    try:
        result = json.loads(path.read_text())
        changed = changed_names(result["made_by"], run.identity())
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: is damaged ({first_line(error)}); remove it to finish again") from error
    if changed:
        raise UserError(f"{path}: is the result of another {', '.join(changed)}; give another --output")
    if not (run.output / ADAPTED_FILE).is_file():
        raise UserError(f"{run.output}: has {RESULT_FILE} but no {ADAPTED_FILE}; remove {RESULT_FILE} to train again")
    return result


def _check_batch(options: FinetuneOptions, processes: Processes) -> None:
    if options.batch % processes.count:
        raise UserError(f"--batch: wanted a multiple of the {processes.count} processes, got {options.batch}")


def _check_same_step(run: Finetuning, step: int, processes: Processes) -> None:
    """Refuses processes that would go on from different places: each machine reads its own folder."""
    most, least = processes.maximum(step), -processes.maximum(-step)
    if most != least:
        raise UserError(
            f"{run.output}: one process goes on at step {least:,}, another at {most:,}; --output must be a folder that "
            "all machines share"
        )


def _open_state(run: Finetuning, clip: Clip, processes: Processes) -> TrainingState:
    """The model as it begins, with the vectors of all nouns that any batch may name."""
    options = run.options
    nouns = sorted({*run.pairs.nouns, *(hard_negative_nouns(run.pairs) if options.hard_negatives else ())})
    if not processes.first:
        processes.wait()
    vectors_VD = noun_vectors(clip, nouns, options.templates, run.output / NOUNS_FOLDER)
    if processes.first:
        processes.wait()
    forget_image_tower(clip)
    model = adapt_clip(run.weights, alpha=options.mode == "alpha", seed=options.seed)
    if options.trains_prompts:
        model.require_adaptable(options.depth)  # now, not when their stage begins
    texts = Texts(clip, nouns, vectors_VD, processes.device)
    return TrainingState(options, model, (clip.mean, clip.std), texts, processes)


class _Trainer:
    """Goes through stages and batches; speaks, logs and saves for all processes where it is the first."""

    def __init__(
        self,
        run: Finetuning,
        clip: Clip,
        state: TrainingState,
        processes: Processes,
        say: Callable[[str], None],
        interrupts: Interrupts,
    ) -> None:
        self.interrupts = interrupts
        self.run, self.state, self.processes = run, state, processes
        self.say = say if processes.first else lambda text: None
        self.batches = batch_options(run, clip)
        self.per_epoch = batches_per_epoch(run.pairs, self.batches)
        # At step 0 nothing counts that a run before wrote: its measurement of the beginning is made again.
        self.log = TrainingLog(run.output, state.at.step or -1, LOG_COLUMNS) if processes.first else None
        self.meter = open_meter(run, clip) if run.labelled and processes.first else None
        self.saved_counts = BatchCounts()  # of all processes, before a restart
        self.counts = BatchCounts()  # of this process, since
        self.recent = _Recent()

    def train(self) -> dict[str, Any]:
        state = self.state
        if state.at.step == 0:
            self.measure()  # CLIP as it is: prompts come with their stage
            state.begin_stage()
        while state.stage_number < len(state.stages):
            self.train_stage()
            # The checkpoint of the next stage comes last: a crash before it trains the end of this one again.
            self.write_stage()
            if state.stage_number < len(state.stages):
                state.begin_stage()
            self.save()
        counts = self.all_counts()
        return self.finish(counts) if self.processes.first else {}

    def train_stage(self) -> None:
        """The rest of the stage that training is in."""
        state, epochs = self.state, self.run.options.epochs
        first_step = state.stage_number * epochs * self.per_epoch
        steps, last_epoch = epochs * self.per_epoch, (state.stage_number + 1) * epochs
        self.say(f"stage {state.stage}: {steps:,} steps, training {describe_trained(state)}")
        start = LoaderState(state.at.epoch, state.at.batches)
        bar = self.bar(steps, state.at.step - first_step)
        for batch in pair_batches(
            self.run.pairs,
            self.batches,
            self.processes.rank,
            self.processes.count,
            self.run.options.workers,
            start,
            last_epoch - state.at.epoch,
        ):
            share = learning_rate_share(state.at.step - first_step, steps, self.run.options.warmup)
            loss = state.learn(batch, share)
            self.after_step(batch, loss, bar)
            self.stop_if_wanted()
        bar.close()

    def stop_if_wanted(self) -> None:
        """Between two steps all that a checkpoint holds fits together."""
        if self.interrupts.wanted and not self.stage_is_over():
            self.save(alone=True)
            raise KeyboardInterrupt

    def bar(self, steps: int, done: int) -> Any:
        from tqdm import tqdm

        quiet = None if self.processes.first else True
        return tqdm(total=steps, initial=done, desc=self.state.stage, unit="step", disable=quiet)

    def after_step(self, batch: PairBatch, loss: float, bar: Any) -> None:
        """Counts, logs, saves and measures when it is time."""
        state, options = self.state, self.run.options
        self.counts += batch.counts
        self.recent.add(loss, options.batch)
        bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
        bar.update()
        epoch_done = state.at.batches == self.per_epoch
        if epoch_done:
            state.at.epoch, state.at.batches = state.at.epoch + 1, 0
            counts = self.all_counts()
            if counts.dropped:
                self.say(counts.text())
        if self.log and (epoch_done or state.at.step % options.log_every == 0):
            self.log.add(state.at.step, {"stage": self.stage_of(batch), "epoch": batch.epoch, **self.facts()})
        if epoch_done:
            self.measure()
        if not self.stage_is_over() and (epoch_done or state.at.step % options.save_every == 0):
            self.save()

    def stage_is_over(self) -> bool:
        """Whether the last step ended a stage, whose checkpoint waits until the next one has begun."""
        at = self.state.at
        return at.step > 0 and at.batches == 0 and at.epoch % self.run.options.epochs == 0

    def all_counts(self) -> BatchCounts:
        """Rows of all processes and restarts; every process must ask."""
        return self.saved_counts + self.processes.sum_of(self.counts, BatchCounts())

    def stage_of(self, batch: PairBatch) -> str:
        return self.state.stages[batch.epoch // self.run.options.epochs]

    def facts(self) -> dict[str, float]:
        """Of the steps since the last row of the log."""
        groups = self.state.optimizer.param_groups
        scale = self.state.model.clip.logit_scale.exp().item()
        return {**self.recent.flush(), "learning_rate": groups[0]["lr"], "logit_scale": scale}

    def measure(self) -> None:
        """Accuracy as it is now, to the log and the screen; the other processes wait."""
        if self.meter:
            values = self.meter.measure(self.state.model).values()
            self.log.add(self.state.at.step, {"epoch": self.state.at.epoch, **values})
            self.say(
                f"step {self.state.at.step:,}: " + ", ".join(f"{name} {value:.3f}" for name, value in values.items())
            )
        self.processes.wait()

    def save(self, alone: bool = False) -> None:
        """Writes the checkpoint; alone: without asking the other processes, which may be gone."""
        counts = self.saved_counts + self.counts if alone else self.all_counts()
        if self.processes.first:
            state = {"training": self.state.state(), "counts": dataclasses.asdict(counts)}
            write_checkpoint(self.run.output, self.run.identity(), state)

    def write_stage(self) -> None:
        """The model after a stage, where another follows: the paper's FT before its MPT."""
        done = self.state.stage_number
        if self.processes.first and done < len(self.state.stages):
            stage = self.state.stages[done - 1]
            save_adapted(self.state.model, str(self.run.output / f"after-{stage}.safetensors"), self.notes())
            self.export()

    def export(self) -> None:
        """For plain open_clip, as long as the model is nothing but CLIP."""
        model = self.state.model
        if not model.depth and model.alpha_conv is None:
            export_open_clip(model, str(self.run.output / EXPORT_FOLDER))

    def finish(self, counts: BatchCounts) -> dict[str, Any]:
        """Writes the model and result.json; the checkpoint goes last, so that a crash here loses nothing."""
        output = self.run.output
        save_adapted(self.state.model, str(output / ADAPTED_FILE), self.notes())
        self.export()
        result = {
            "made_by": self.run.identity(),
            "accuracy": self.log.measured(ACCURACIES),
            "rows": dataclasses.asdict(counts),
        }
        with whole_file(str(output / RESULT_FILE)) as part:
            Path(part).write_text(json.dumps(result, indent=1) + "\n")
        self.log.close()
        (output / CHECKPOINT_FILE).unlink(missing_ok=True)
        return result

    def notes(self) -> dict[str, Any]:
        """What a file of weights remembers of its making."""
        return {"made_by": self.run.made_by(), "pairs": len(self.run.pairs), "nouns": len(self.run.pairs.nouns)}


def forget_image_tower(clip: Clip) -> None:
    """Frees the image tower of the CLIP that embeds texts: the one that trains is another."""
    clip.model.visual = None


class _Recent:
    """Loss and speed since the last row of the log."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.pairs, self.began = 0, time.monotonic()

    def add(self, loss: float, pairs: int) -> None:
        self.losses.append(loss)
        self.pairs += pairs

    def flush(self) -> dict[str, float]:
        loss = sum(self.losses) / len(self.losses)
        rate = self.pairs / max(1e-9, time.monotonic() - self.began)
        self.losses, self.pairs, self.began = [], 0, time.monotonic()
        return {"loss": loss, "pairs_per_s": rate}


def batch_options(run: Finetuning, clip: Clip) -> BatchOptions:
    """How batches are made for a model and a mode."""
    options = run.options
    return BatchOptions(
        batch_size=options.batch,
        size_px=clip.image_size_px,
        mean=clip.mean,
        std=clip.std,
        view="image" if options.mode == "alpha" else "region",
        whole_share=options.whole_share,
        seed=options.seed,
        fetch=run.fetch,
    )


def open_meter(run: Finetuning, clip: Clip) -> AccuracyMeter:
    """What measures models on the run's labelled set, whose classes the text tower reads, which never trains."""
    embeddings = ClassEmbeddings(clip, prompt_templates(run.options.templates))
    return AccuracyMeter(run.labelled, embeddings.embed(run.labelled.classes), clip.mean, clip.std)


def describe_trained(state: TrainingState) -> str:
    """How many parameters train, and where they are, in words."""
    named = dict(state.model.named_parameters())
    total = sum(named[name].numel() for name in state.trained)
    places = sorted({name.split(".")[1] if name.startswith("clip.") else name.split(".")[0] for name in state.trained})
    return f"{total:,} parameters of {', '.join(places)}"
