"""Write beams.json: hypotheses of transformers' beam search on real checkpoints, for test_beam_search.py.

    python tests/models/make_beams.py SHARED/models        # needs torch and transformers 5

Run once, with torch 2.13 and transformers 5.24. Each case has the arguments, and transformers' hypotheses with scores.
"""

import itertools
import json
import sys
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

PROMPTS = {"stories260K": [1, 403, 407, 261, 378], "tiny-random-gpt2": [5, 17, 300], "babyllama-105": [1, 20, 31, 7]}
"""Token ids of each checkpoint's prompt."""

MORE_ENDS = 3
"""Tokens of a long greedy text that end hypotheses, so that they have different lengths."""


def cases():
    """Yield the arguments of each case."""
    for width, penalty, early in itertools.product((2, 5), (-1.0, 0.0, 1.0, 2.5), (False, True, "never")):
        yield {"beam_width": width, "length_penalty": penalty, "early_stopping": early, "max_tokens": 14}
    yield {"beam_width": 8, "length_penalty": 1.0, "early_stopping": False, "max_tokens": 40}


def hypotheses(model, prompt, ends, case):
    """Return transformers' hypotheses: token ids after the prompt, and scores."""
    found = model.generate(
        torch.tensor([prompt]),
        num_beams=case["beam_width"],
        num_return_sequences=case["beam_width"],
        max_new_tokens=case["max_tokens"],
        length_penalty=case["length_penalty"],
        early_stopping=case["early_stopping"],
        eos_token_id=ends,
        pad_token_id=0,
        do_sample=False,
        return_dict_in_generate=True,
        output_scores=True,
    )
    rows = found.sequences[:, len(prompt) :].tolist()
    return [cut(row, ends) for row in rows], found.sequences_scores.tolist()


def cut(token_ids, ends):
    """Return the tokens up to the first that ends a text, without padding."""
    index = next((i for i, token_id in enumerate(token_ids) if token_id in ends), len(token_ids) - 1)
    return token_ids[: index + 1]


def main(folder):
    """Write the file."""
    answers = {}
    for name, prompt in PROMPTS.items():
        config = AutoConfig.from_pretrained(Path(folder) / name)
        model = AutoModelForCausalLM.from_pretrained(Path(folder) / name, config=config, dtype=torch.float32).eval()
        greedy = model.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False, eos_token_id=None)
        ends = sorted(set(greedy[0, len(prompt) :].tolist()))[:MORE_ENDS]
        answers[name] = {"prompt": prompt, "ends": ends, "cases": []}
        for case in cases():
            token_ids, scores = hypotheses(model, prompt, ends, case)
            answers[name]["cases"].append({"arguments": case, "token_ids": token_ids, "scores": scores})
    Path(__file__).with_name("beams.json").write_text(json.dumps(answers, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
