"""A call on more than one thread: the same bits for any number of threads, also in a forked child."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from decoding import Sampler, SamplingParams, SamplingState
from decoding.errors import KernelError, LogitsError, NonFiniteLogitsError
from decoding.sampling.kernel import call

VOCAB_SIZE, NUM_ROWS = 300, 13
LOGITS = (np.random.default_rng(1).standard_normal((NUM_ROWS, VOCAB_SIZE)) * 3).astype(np.float32)


@pytest.fixture(autouse=True)
def few_logits_are_enough(monkeypatch):
    """Allow threads for few logits, so that small rows suffice."""
    monkeypatch.setattr(call, "MIN_LOGITS_A_THREAD", 1)


def states():
    """Return states with different parameters per row, some with log-probabilities in two modes."""
    params = [
        SamplingParams(
            seed=row,
            temperature=0.5 + row / 4,
            top_p=0.9 if row % 2 else 1.0,
            presence_penalty=row / 10,
            logprobs=row % 4 if row % 3 else None,
            logprobs_mode=("raw", "final") if row % 2 else "penalized",
        )
        for row in range(NUM_ROWS)
    ]
    return [SamplingState(one, [1, 2, 3]) for one in params]


def results(sampler, logits=LOGITS):
    """Return all that two calls report and record, as comparable values."""
    rows = states()
    found = []
    for _ in range(2):
        output = sampler.sample(logits, rows, on_error="status")
        found += [output.words.tobytes(), output.top_token_ids.tobytes(), output.all_top_logprobs.tobytes()]
        found.append(repr(output.errors))
    return [*found, [state.output_token_ids for state in rows]]


@pytest.mark.parametrize("num_threads", range(1, 9))
def test_the_bits_do_not_depend_on_the_number_of_threads(num_threads):
    """One to eight threads give the same tokens, log-probabilities and probabilities."""
    one, several = Sampler(VOCAB_SIZE), Sampler(VOCAB_SIZE, num_threads=num_threads)
    assert results(several) == results(one)
    probabilities = [sampler.probabilities(LOGITS[::-1], states()).tobytes() for sampler in (one, several)]
    assert probabilities[0] == probabilities[1]


@pytest.mark.parametrize("num_threads", [2, 5])
def test_errors_do_not_depend_on_the_number_of_threads(num_threads):
    """Errors do not depend on the number of threads: the first failed row is raised, and nothing is recorded."""
    logits = LOGITS.copy()
    logits[9, 7] = np.nan
    logits[11, 5] = np.inf
    one, several = Sampler(VOCAB_SIZE), Sampler(VOCAB_SIZE, num_threads=num_threads)
    assert results(several, logits) == results(one, logits)
    rows = states()
    with pytest.raises(NonFiniteLogitsError) as caught:
        several.sample(logits, rows)
    assert (caught.value.row, caught.value.token_id) == (9, 7)
    assert all(state.position == 0 for state in rows)
    with pytest.raises(LogitsError):
        several.probabilities(logits, rows)


def test_other_threads_take_part():
    """The rows of a call are divided among the threads, which start with the first call."""
    sampler = Sampler(VOCAB_SIZE, num_threads=3)
    assert sampler._kernel.threads.num_running == 1
    sampler.sample(LOGITS, states())
    assert sampler._kernel.threads.num_running == 3


def test_threads_at_work_are_not_waited_for():
    """A call that finds the threads at work, such as for another caller, computes all rows itself."""
    sampler = Sampler(VOCAB_SIZE, num_threads=2)
    with sampler._kernel.threads.lock:
        assert results(sampler) == results(Sampler(VOCAB_SIZE))
    assert sampler._kernel.threads.num_running == 1


def test_every_part_has_a_workspace_for_long_histories():
    """Histories that outgrow the workspace give the same bits on several threads."""
    params = [SamplingParams(seed=row, frequency_penalty=0.1) for row in range(NUM_ROWS)]
    states = [SamplingState(one, list(range(VOCAB_SIZE)) * 20) for one in params]
    one, several = Sampler(VOCAB_SIZE), Sampler(VOCAB_SIZE, num_threads=4)
    outputs = [sampler.sample(LOGITS, states, commit=False).words.tobytes() for sampler in (one, several)]
    assert outputs[0] == outputs[1]


def test_a_refusal_concerns_the_whole_call():
    """Arguments that the kernel refuses in one part raise KernelError, also beside a row that fails in another."""
    logits, rows = LOGITS.copy(), states()
    logits[0, 0] = np.inf
    sampler = Sampler(VOCAB_SIZE, num_threads=2)
    rows[-1].kernel_row.struct.temperature = -1.0  # as no state would set it
    with pytest.raises(KernelError, match=f"temperature of row {NUM_ROWS - 1}"):
        sampler.sample(logits, rows)


def test_few_logits_stay_on_the_callers_thread(monkeypatch):
    """No thread is started for a call that is too small, nor before the first large call."""
    monkeypatch.setattr(call, "MIN_LOGITS_A_THREAD", LOGITS.size)
    sampler = Sampler(VOCAB_SIZE, num_threads=8)
    sampler.sample(LOGITS, states())
    assert sampler._kernel.threads.num_running == 1
    monkeypatch.setattr(call, "MIN_LOGITS_A_THREAD", LOGITS.size // 2)
    sampler.sample(LOGITS, states())
    assert sampler._kernel.threads.num_running == 8


def test_many_callers_share_the_threads():
    """A sampler with three threads gives the same results when eight threads call it at once."""
    sampler, expected = Sampler(VOCAB_SIZE, num_threads=3), results(Sampler(VOCAB_SIZE))
    with ThreadPoolExecutor(8) as pool:
        assert all(found == expected for found in pool.map(lambda _: results(sampler), range(16)))


def test_a_forked_child_has_threads_of_its_own():
    """After a fork both processes continue to sample with the same results."""
    program = """if True:
        import os, sys, warnings
        import numpy as np
        from decoding import Sampler, SamplingParams, SamplingState
        from decoding.sampling.kernel import call
        warnings.simplefilter("ignore")
        call.MIN_LOGITS_A_THREAD = 1
        sampler, logits = Sampler(50, num_threads=3), np.zeros((6, 50), np.float32)
        def draw():
            states = [SamplingState(SamplingParams(seed=seed)) for seed in range(6)]
            return sampler.sample(logits, states).token_ids.tolist()
        expected = draw()
        child = os.fork()
        if child == 0:
            os._exit(0 if draw() == expected else 1)
        _, status = os.waitpid(child, 0)
        sys.exit(os.waitstatus_to_exitcode(status) or draw() != expected)
    """
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=120).returncode == 0


@pytest.mark.parametrize("num_threads", [0, -1, 65, 1.0, True, None, "2"])
def test_num_threads_is_checked(num_threads):
    """num_threads must be an integer from 1 to 64."""
    with pytest.raises(ValueError, match="num_threads"):
        Sampler(4, num_threads=num_threads)
