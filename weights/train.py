"""Train the bundled model on this interpreter's standard library, on a CPU.

Interrupt it when you like: it finishes the step it is in, leaves a checkpoint
in weights/build/ and goes on from there when it is started again.
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
from examples import windows
from export import CHECKPOINT, export
from model import Config, Llama
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from tqdm import tqdm  # type: ignore[import-untyped]
from train_tokenizer import FIM_PREFIX


@dataclass(frozen=True)
class Recipe:
    """Everything that decides which model comes out, besides the files."""

    seed: int = 20231204
    # One epoch for each entry; short windows are cheaper, the last epochs see the full length.
    contexts: tuple[int, ...] = (256, 256, 256, 1024, 1024)
    steps_per_epoch: int = 612
    # The last epoch is cut short: this is what a CPU does in under an hour.
    steps: int = 2700
    tokens_per_step: int = 4096
    learning_rate: float = 5e-3
    warmup_steps: int = 100
    cosine_steps: int = 3672
    decay_steps: int = 1750
    weight_decay: float = 0.1
    clip: float = 1.0
    threads: int = 2

    def rate(self, step: int) -> float:
        """Learning rate: up in a line, down along a cosine, and in a line again to nothing at the end."""
        up = min(1.0, (step + 1) / self.warmup_steps)
        cosine = 0.5 * (1 + math.cos(math.pi * step / self.cosine_steps))
        return self.learning_rate * up * min(cosine, (self.steps - step) / self.decay_steps)


CHECKPOINT_EVERY = 200
LOG_EVERY = 50


def optimizers(model: Llama, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the layers' matrices, as it learns more from each token; AdamW for all the rest."""
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    gains = [p for p in model.parameters() if p.ndim == 1]
    groups: list[dict[str, Any]] = [
        {"params": [model.model.embed_tokens.weight], "weight_decay": recipe.weight_decay},
        {"params": gains, "weight_decay": 0.0},
    ]
    muon = torch.optim.Muon(matrices, weight_decay=recipe.weight_decay, adjust_lr_fn="match_rms_adamw")
    return [muon, torch.optim.AdamW(groups, betas=(0.9, 0.95), fused=True)]


def batches(recipe: Recipe, start: int) -> Iterator[Tensor]:
    """The batches from step `start` on, the same ones whether or not the run was interrupted."""
    while start < recipe.steps:
        epoch, first = divmod(start, recipe.steps_per_epoch)
        context = recipe.contexts[epoch]
        rows = recipe.tokens_per_step // context
        data = windows(recipe.seed, epoch, context)
        last = min(recipe.steps_per_epoch, recipe.steps - epoch * recipe.steps_per_epoch)
        for step in range(first, last):
            yield torch.from_numpy(data[step * rows : (step + 1) * rows])
        start += last - first


def loss_of(model: Llama, batch: Tensor) -> Tensor:
    """Mean loss of a batch; where an example with a gap begins is arbitrary, so that is not learned."""
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(batch[:, :-1])
    targets = batch[:, 1:].flatten()
    return cross_entropy(logits.flatten(0, 1), targets, ignore_index=FIM_PREFIX)


class Trainer:
    """A model, its optimisers and how far it has come."""

    def __init__(self, recipe: Recipe) -> None:
        torch.manual_seed(recipe.seed)
        torch.set_num_threads(recipe.threads)
        self.recipe = recipe
        self.model = Llama(Config())
        self.optimizers = optimizers(self.model, recipe)
        self.step = 0
        self.seconds = 0.0

    def save(self) -> None:
        """Write the checkpoint under another name first: an interruption never leaves half of one."""
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
        """Go on from the checkpoint, if there is one and it belongs to this recipe."""
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
        loss = loss_of(self.model, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.step += 1
        self.seconds += time.monotonic() - started
        return loss.item()

    def held_out_bits(self) -> float:
        """Bits per byte on two of the held-out files: a look, not the measurement that evaluate.py makes."""
        with torch.autocast("cpu", torch.bfloat16):
            texts = [corpus.read(name) for name in ("textwrap.py", "shlex.py")]
            total = sum(score(self.model, text)[0] for text in texts)
        return bits(total) / sum(len(text.encode()) for text in texts)


class Interrupt:
    """Remembers Ctrl-C (or a request to end) until the step is over, so that a checkpoint is never torn."""

    def __init__(self) -> None:
        self.asked = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.ask)

    def ask(self, number: int, frame: FrameType | None) -> None:
        """Note the signal."""
        self.asked = True


def report(trainer: Trainer, loss: float, bar: tqdm[Any]) -> None:
    """Move the bar on a terminal; in a pipe, print a line now and then instead."""
    bar.update()
    bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
    if bar.disable and (trainer.step % LOG_EVERY == 0 or trainer.step == trainer.recipe.steps):
        speed = trainer.step * trainer.recipe.tokens_per_step / trainer.seconds
        line = f"step {trainer.step}/{trainer.recipe.steps}  loss {loss:.3f}  {speed:,.0f} tokens/s"
        print(line, flush=True)


def run(trainer: Trainer, interrupt: Interrupt) -> bool:
    """Train to the end of the recipe; False when interrupted on the way."""
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
            if trainer.step % recipe.steps_per_epoch == 0:
                epoch = trainer.step // recipe.steps_per_epoch
                bar.write(f"epoch {epoch}: two held-out files at {trainer.held_out_bits():.3f} bits per byte")
    return True


def main() -> int:
    """Train, or go on training, and export the result."""
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
