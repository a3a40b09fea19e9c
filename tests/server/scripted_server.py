"""A server with a scripted model: `python scripted_server.py BEHAVIOUR [field=value ...]`.

Behaviours:
plain: letters from a to z; same: only the letter a, 20 ms per forward pass;
ids: no tokenizer, and a model whose name is not the served one;
nan: logits are NaN for prompts that begin with N, and after five tokens for prompts that begin with M;
broken: by the first letter of the prompt, B raises, H is out of memory, D dies, W never returns;
slow: every forward pass takes one second; paced: every forward pass takes 20 ms.

held=1: the model is not loaded before a SIGUSR2. garbage=1: no garbage collection except one at each SIGUSR1, which
reports the objects that it found. Other fields are settings of the server.
"""

import gc
import json
import signal
import sys
import threading
import time
from collections import Counter

import numpy as np

from decoding.cli.console import say
from decoding.llm import LLM
from decoding.server.run import listen, serve
from decoding.server.settings import ServerSettings
from decoding.testing.scripted import ScriptedModel, byte_tokenizer, hashed_logits

SECONDS = {"slow": 1.0, "paced": 0.02, "same": 0.02}


class Behaving(ScriptedModel):
    """A scripted model with a fault."""

    def __init__(self, behaviour):
        super().__init__(self.script, 256, max_position_embeddings=4096)
        self.behaviour = behaviour
        self.letters = hashed_logits(seed=1)

    def script(self, token_ids, vocab_size):
        """Return logits of the letters from a to z, or fail as the behaviour demands."""
        if self.behaviour == "nan" and (token_ids[0] == ord("N") or (token_ids[0] == ord("M") and len(token_ids) > 5)):
            return np.full(vocab_size, np.nan, np.float32)
        if self.behaviour == "broken":
            fail(token_ids[0])
        logits = np.full(vocab_size, -np.inf, np.float32)
        logits[97:123] = self.letters(token_ids, 26)
        if self.behaviour == "same":
            logits[98:123] = -np.inf
        return logits

    def forward(self, batch, cache):
        """Sleep for the time of the behaviour, then compute the logits."""
        time.sleep(SECONDS.get(self.behaviour, 0.0))
        return super().forward(batch, cache)


def fail(token_id):
    """Fail in the way that the first letter of the prompt selects."""
    if token_id == ord("B"):
        raise RuntimeError("/secret/path at 0x7f0000000000")
    if token_id == ord("H"):
        raise MemoryError
    if token_id == ord("D"):
        raise SystemExit
    if token_id == ord("W"):
        say("waits for ever")
        time.sleep(3600)


def main(behaviour, *changes):
    """Serve until a signal arrives."""
    fields = dict(change.split("=") for change in changes)
    running = int(fields.pop("max_running", 8))
    may_load = threading.Event()
    if fields.pop("held", None):
        signal.signal(signal.SIGUSR2, lambda number, frame: may_load.set())
    else:
        may_load.set()
    if fields.pop("garbage", None):
        signal.signal(signal.SIGUSR1, say_garbage)
    settings = ServerSettings(log_level="info", **{name: type_of(name)(value) for name, value in fields.items()})
    tokenizer, name = (None, "folder") if behaviour == "ids" else (byte_tokenizer(), "scripted")
    llm = LLM.from_parts(Behaving(behaviour), tokenizer, name=name, max_num_seqs=running)
    listener = listen("127.0.0.1", 0)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    say(f"loading, {url.replace('http', 'at')}")

    def load():
        may_load.wait()
        return {"scripted": llm}

    sys.exit(serve(["scripted"], load, listener, settings, lambda: say(f"serving on {url}")))


def say_garbage(number, frame):
    """Collect, and say how many objects of each type that has freed; from then on nothing else collects."""
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    gc.collect()
    found = Counter(type(one).__name__ for one in gc.garbage)
    gc.set_debug(0)
    gc.garbage.clear()
    gc.collect()
    say(f"garbage: {json.dumps(found)}")


def type_of(name):
    """Return the function that parses a setting."""
    return int if name.startswith("max_") else float


if __name__ == "__main__":
    main(*sys.argv[1:])
