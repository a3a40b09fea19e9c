"""Train the bundled model on this interpreter's standard library, on a CPU.

An interrupted run finishes its step and writes a checkpoint to bundled_model/build/; the next run resumes from it.
"""

from __future__ import annotations

import itertools
import math
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from types import FrameType
from typing import Any

import corpus
import torch
from evaluate import bits, score
from export import CHECKPOINT, export
from model import Config, Llama
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from tqdm import tqdm  # type: ignore[import-untyped]
from train_tokenizer import END_OF_TEXT, FIM_MIDDLE, FIM_PREFIX, FIM_SUFFIX

from examples import windows


@dataclass(frozen=True)
class Epoch:
    """One pass over the library.

    context: number of tokens of a window. Short windows come first, because nearby dependencies are learned first.
    steps: number of steps; the rest of the text is not read in this epoch.
    tests: share of the library's tests that are read. Without them the model soon memorises the library.
    """

    context: int
    steps: int
    tests: float


@dataclass(frozen=True)
class Recipe:
    """All settings that determine the trained model, besides the files."""

    seed: int = 20231204
    epochs: tuple[Epoch, ...] = (
        *[Epoch(256, 1100, tests=0.5)] * 2,
        *[Epoch(512, 1100, tests=0.5)] * 4,
        Epoch(1024, 850, tests=0.25),  # at the end more library code, in windows of the full size
    )
    tokens_per_step: int = 4096
    learning_rate: float = 5e-3
    warmup_steps: int = 100
    weight_decay: float = 0.1
    clip: float = 1.0
    # Weight of a token in a middle: only few tokens teach where a middle ends.
    middle_weight: float = 3.0

    @property
    def steps(self) -> int:
        """Return the number of steps of all epochs."""
        return sum(epoch.steps for epoch in self.epochs)

    def rate(self, step: int) -> float:
        """Return the learning rate of a step: linear warm-up, then a cosine to 0."""
        up = min(1.0, (step + 1) / self.warmup_steps)
        return self.learning_rate * up * 0.5 * (1 + math.cos(math.pi * step / self.steps))


CHECKPOINT_EVERY = 50
LOG_EVERY = 50
LOOK_EVERY = 300


def optimizers(model: Llama, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Return Muon for the layers' matrices, which learns more per token, and AdamW for all other parameters."""
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    gains = [p for p in model.parameters() if p.ndim == 1]
    groups: list[dict[str, Any]] = [
        {"params": [model.model.embed_tokens.weight], "weight_decay": recipe.weight_decay},
        {"params": gains, "weight_decay": 0.0},
    ]
    muon = torch.optim.Muon(matrices, weight_decay=recipe.weight_decay, adjust_lr_fn="match_rms_adamw")
    return [muon, torch.optim.AdamW(groups, betas=(0.9, 0.95), fused=True)]


def batches(recipe: Recipe, start: int) -> Iterator[Tensor]:
    """Yield the batches from step `start` on, which do not depend on interruptions."""
    for number, epoch in enumerate(recipe.epochs):
        if start < epoch.steps:
            rows = recipe.tokens_per_step // epoch.context
            data = windows(recipe.seed, number, epoch.context, epoch.tests)
            for step in range(start, epoch.steps):
                yield torch.from_numpy(data[step * rows : (step + 1) * rows])
        start = max(0, start - epoch.steps)


def middles(ids: Tensor) -> Tensor:
    """Return True for each token of windows (batch, length) that is in a gap, its marker included."""
    places = torch.arange(1, ids.shape[1] + 1).expand_as(ids)
    begin = torch.where(ids == FIM_MIDDLE, places, 0).cummax(1).values
    end = torch.where(ids == END_OF_TEXT, places, 0).cummax(1).values
    return begin > end


def loss_of(model: Llama, batch: Tensor, middle_weight: float) -> Tensor:
    """Return the mean loss of a batch (rows, 2, length).

    The markers of gaps and the beginnings of texts are excluded, because their positions are arbitrary.
    """
    ids, texts = batch[:, 0], batch[:, 1]
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(ids[:, :-1], texts[:, :-1])
    targets = ids[:, 1:]
    weights = torch.where(middles(ids[:, :-1]), middle_weight, 1.0)
    arbitrary = ((targets >= FIM_PREFIX) & (targets <= FIM_SUFFIX)) | (texts[:, 1:] != texts[:, :-1])
    weights = weights.masked_fill(arbitrary, 0.0).flatten()
    losses = cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="none")
    return (losses * weights).sum() / weights.sum()


class Trainer:
    """A model, its optimisers and its progress."""

    def __init__(self, recipe: Recipe) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe = recipe
        self.model = Llama(Config())
        self.optimizers = optimizers(self.model, recipe)
        self.loss_of = torch.compile(loss_of, dynamic=False)  # a third faster; needs a C++ compiler
        self.step = 0
        self.seconds = 0.0

    def save(self) -> None:
        """Write the checkpoint atomically."""
        CHECKPOINT.parent.mkdir(exist_ok=True)
        partial = CHECKPOINT.with_suffix(".partial")
        state = {
            "recipe": asdict(self.recipe),
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step": self.step,
            "seconds": self.seconds,
        }
        torch.save(state, partial)
        partial.replace(CHECKPOINT)

    def resume(self) -> None:
        """Load the checkpoint, if there is one of this recipe."""
        if not CHECKPOINT.exists():
            return
        state = torch.load(CHECKPOINT, weights_only=True)
        if state["recipe"] != asdict(self.recipe):
            sys.exit(f"{CHECKPOINT} is from another recipe: remove it to start afresh")
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.seconds = state["step"], state["seconds"]
        print(f"resuming at step {self.step}")

    def learn(self, batch: Tensor) -> float:
        """Take one optimiser step and return the loss before it."""
        started = time.monotonic()
        for group in itertools.chain(*(optimizer.param_groups for optimizer in self.optimizers)):
            group["lr"] = self.recipe.rate(self.step)
        loss = self.loss_of(self.model, batch, self.recipe.middle_weight)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.step += 1
        self.seconds += time.monotonic() - started
        return loss.item()

    def held_out_bits(self) -> float:
        """Return bits per byte on two of the held-out files, a preview of the measurement of evaluate.py."""
        with torch.autocast("cpu", torch.bfloat16):
            texts = [corpus.read(name) for name in ("textwrap.py", "shlex.py")]
            total = sum(score(self.model, text)[0] for text in texts)
        return bits(total) / sum(len(text.encode()) for text in texts)


class Interrupt:
    """A handler that records SIGINT or SIGTERM until the end of the step, so that the checkpoint is complete."""

    def __init__(self) -> None:
        self.asked = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.ask)

    def ask(self, number: int, frame: FrameType | None) -> None:
        """Record the signal."""
        self.asked = True


def report(trainer: Trainer, loss: float, bar: tqdm[Any]) -> None:
    """Advance the progress bar on a terminal; otherwise print a line at intervals."""
    bar.update()
    bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
    if bar.disable and (trainer.step % LOG_EVERY == 0 or trainer.step == trainer.recipe.steps):
        speed = trainer.step * trainer.recipe.tokens_per_step / trainer.seconds
        line = f"step {trainer.step}/{trainer.recipe.steps}  loss {loss:.3f}  {speed:,.0f} tokens/s"
        print(line, flush=True)


def run(trainer: Trainer, interrupt: Interrupt) -> bool:
    """Train to the end of the recipe. Return False if interrupted."""
    recipe = trainer.recipe
    average: float | None = None
    with tqdm(initial=trainer.step, total=recipe.steps, unit="step", disable=not sys.stderr.isatty()) as bar:
        for batch in batches(recipe, trainer.step):
            loss = trainer.learn(batch)
            average = loss if average is None else 0.98 * average + 0.02 * loss
            report(trainer, average, bar)
            if interrupt.asked or trainer.step % CHECKPOINT_EVERY == 0:
                trainer.save()
            if interrupt.asked:
                return False
            if trainer.step % LOOK_EVERY == 0:
                bar.write(f"step {trainer.step}: two held-out files at {trainer.held_out_bits():.3f} bits per byte")
    return True


def main() -> int:
    """Train or resume training, and export the result."""
    corpus.warn_if_different()
    trainer = Trainer(Recipe())
    interrupt = Interrupt()
    trainer.resume()
    if not run(trainer, interrupt):
        print(f"stopped at step {trainer.step}; run again to go on")
        return 130
    trainer.save()
    tokens = trainer.step * trainer.recipe.tokens_per_step
    print(f"{export(trainer.model).name}: {tokens:,} tokens in {trainer.seconds / 60:.1f} minutes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
