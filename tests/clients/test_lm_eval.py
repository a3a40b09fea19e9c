"""The harness lm-evaluation-harness against a server: its scores are those of the model."""

from __future__ import annotations

import json
import math

import pytest

from decoding import SamplingParams

pytest.importorskip("lm_eval", reason="needs the extra `clients` (bash tests/clients/run)")
# warnings of the harness and its dependencies
pytestmark = pytest.mark.filterwarnings("ignore")

TEXTS = ("Once upon a time, there was a little girl.", "Tom had a red ball. He liked it very much.")
QUESTIONS = [
    {"question": "Once upon a", "choices": [" time", " banana", " was"], "answer": 0},
    {"question": "Lily liked to play", "choices": [" with", " zebra", " the"], "answer": 0},
    {"question": "The dog was very", "choices": [" the", " happy", " to"], "answer": 1},
    {"question": 'He said, "Thank', "choices": [" you", " dog", " was"], "answer": 0},
]


@pytest.fixture(scope="module", params=[1, 4], ids=["one at a time", "concurrently"])
def harness(request, address):
    """Return the harness's client, which sends token ids and uses the server's tokenizer."""
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    return LocalCompletionsAPI(
        base_url=f"{address}/v1/completions",
        model="stories260K",
        tokenizer_backend="remote",
        num_concurrent=request.param,
        batch_size=1,
        max_length=512,
        max_retries=1,
    )


def instances(kind, *arguments):
    """Return requests in the form of the harness."""
    from lm_eval.api.instance import Instance

    return [Instance(kind, {}, args, index) for index, args in enumerate(arguments)]


def score(llm, context, continuation):
    """Return the sum of the log-probabilities of a continuation, and whether it is greedy."""
    import numpy as np

    logits = llm.logits([*context, *continuation])[len(context) - 1 : -1].astype(np.float64)
    logprobs = logits - np.log(np.exp(logits - logits.max(axis=1, keepdims=True)).sum(axis=1, keepdims=True))
    logprobs -= logits.max(axis=1, keepdims=True)
    chosen = logprobs[np.arange(len(continuation)), continuation]
    return chosen.sum(), bool((logits.argmax(axis=1) == continuation).all())


def test_loglikelihood(harness, llm):
    """The score of each choice, and whether it is greedy, are those of the model's logits."""
    pairs = [(one["question"], choice) for one in QUESTIONS for choice in one["choices"]]
    got = harness.loglikelihood(instances("loglikelihood", *pairs))
    greedy = 0
    for (question, choice), (logprob, is_greedy) in zip(pairs, got, strict=True):
        whole = llm.tokenizer.encode(question + choice, add_special_tokens=False)
        context = llm.tokenizer.encode(question, add_special_tokens=False)
        expected, likeliest = score(llm, context, whole[len(context) :])
        assert logprob == pytest.approx(expected, abs=1e-4)
        assert is_greedy == likeliest
        greedy += is_greedy
    assert greedy >= 1


def test_an_end_token_after_the_text_costs_no_token(harness, llm):
    """If the model would end after the continuation, the harness still gets the scores of all its tokens."""
    story = llm.complete("Once upon a time", SamplingParams(temperature=0, max_tokens=None))
    text = story.choices[0].text
    ids = llm.tokenizer.encode("Once upon a time" + text, add_special_tokens=False)
    got = harness._loglikelihood_tokens([(("", ""), ids[:4], ids[4:])])
    expected, _ = score(llm, ids[:4], ids[4:])
    assert got[0][0] == pytest.approx(expected, abs=1e-3)


def test_rolling_loglikelihood(harness, llm):
    """Scores of whole texts after the start token are those of the model's logits."""
    got = harness.loglikelihood_rolling(instances("loglikelihood_rolling", *((text,) for text in TEXTS)))
    for text, logprob in zip(TEXTS, got, strict=True):
        ids = llm.tokenizer.encode(text, add_special_tokens=False)
        expected, _ = score(llm, [llm.tokenizer.bos_token_id], ids)
        assert logprob == pytest.approx(expected, abs=1e-4)


def test_generate_until(harness, llm):
    """The harness gets the greedy text up to a stop string."""
    settings = {"until": ["."], "max_gen_toks": 20, "do_sample": False}
    got = harness.generate_until(instances("generate_until", *((text[:12], settings) for text in TEXTS)))
    for text, generated in zip(TEXTS, got, strict=True):
        ids = llm.tokenizer.encode(text[:12], add_special_tokens=False)
        params = SamplingParams(temperature=0, max_tokens=20, stop=[".", "</s>"])
        assert generated == llm.complete(ids, params).choices[0].text


def test_the_backend_gguf(address, llm):
    """The harness's backend gguf, which sends text and no model, gets scores of the continuation and greedy text."""
    from lm_eval.models.gguf import GGUFLM

    harness = GGUFLM(base_url=address)
    pairs = [(one["question"], choice) for one in QUESTIONS for choice in one["choices"]]
    got = harness.loglikelihood(instances("loglikelihood", *pairs))
    echo = SamplingParams(max_tokens=0, echo=True, logprobs=1)
    for (question, choice), (logprob, _) in zip(pairs, got, strict=True):
        scores = llm.complete(question + choice, echo).choices[0].logprobs
        ours = zip(scores.token_logprobs, scores.text_offset, strict=True)
        expected = sum(value for value, offset in ours if offset >= len(question))
        assert logprob == pytest.approx(expected, abs=1e-4)
    (text,) = harness.generate_until(instances("generate_until", ("Once upon", {"until": ["."]})))
    assert text == llm.complete("Once upon", SamplingParams(temperature=0, stop=["."])).choices[0].text.strip()


def test_a_task_of_its_evaluator(address, llm, tmp_path):
    """A multiple-choice task in YAML has the accuracy of the model's own scores."""
    from lm_eval import evaluator
    from lm_eval.tasks import TaskManager

    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(one) + "\n" for one in QUESTIONS))
    (tmp_path / "task.yaml").write_text(
        "task: our_questions\ndataset_path: json\ndataset_kwargs:\n  data_files:\n"
        f"    test: {tmp_path}/questions.jsonl\noutput_type: multiple_choice\ntest_split: test\n"
        'doc_to_text: "{{question}}"\ndoc_to_choice: "{{choices}}"\ndoc_to_target: "{{answer}}"\n'
        'target_delimiter: ""\nmetric_list:\n  - metric: acc\n'
    )
    found = evaluator.simple_evaluate(
        "local-completions",
        model_args={
            "base_url": f"{address}/v1/completions",
            "model": "stories260K",
            "tokenizer_backend": "remote",
            "max_length": 512,
        },
        tasks=["our_questions"],
        task_manager=TaskManager(include_path=str(tmp_path)),
        bootstrap_iters=0,
    )
    right = 0
    for one in QUESTIONS:
        context = llm.tokenizer.encode(one["question"], add_special_tokens=False)
        whole = [llm.tokenizer.encode(one["question"] + c, add_special_tokens=False) for c in one["choices"]]
        scores = [score(llm, context, ids[len(context) :])[0] for ids in whole]
        right += scores.index(max(scores)) == one["answer"]
    assert math.isclose(found["results"]["our_questions"]["acc,none"], right / len(QUESTIONS))
