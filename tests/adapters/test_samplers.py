"""Our sampler in other engines: they return the tokens that it draws from their own logits."""

from __future__ import annotations

import numpy as np
import pytest

from decoding import LLM, SamplingParams
from decoding.adapters.rows import new_state
from decoding.errors import ParameterError
from decoding.model_loading import bundled_model_folder
from decoding.sampling.sampler import Sampler

PARAMS = SamplingParams(
    max_tokens=None, seed=11, temperature=0.9, top_p=0.95, min_p=0.01, dry_multiplier=0.5, frequency_penalty=0.3
)
SHORT = SamplingParams(max_tokens=12, **{name: getattr(PARAMS, name) for name in ("seed", "temperature", "min_p")})


@pytest.fixture(scope="module")
def torch_model():
    """Return the bundled model in transformers."""
    pytest.importorskip("torch", reason="bash tests/adapters/run installs it")
    transformers = pytest.importorskip("transformers", reason="bash tests/adapters/run installs it")
    model = transformers.AutoModelForCausalLM.from_pretrained(bundled_model_folder(), dtype="float32")
    tokenizer = transformers.AutoTokenizer.from_pretrained(bundled_model_folder(), padding_side="left")
    tokenizer.pad_token_id = model.generation_config.pad_token_id = model.generation_config.eos_token_id
    return model.eval(), tokenizer


@pytest.mark.parametrize("do_sample", [False, True])
def test_transformers(torch_model, do_sample):
    """The tokens of transformers' `generate` are our sampler's draws from its raw logits, per row of a padded batch."""
    from decoding.adapters.transformers import SamplerProcessor

    model, tokenizer = torch_model
    prompts = ["Once upon a time", "The little dog ran to the old red house and", "Once upon a time"]
    inputs = tokenizer(prompts, return_tensors="pt", padding=True)
    inputs.pop("token_type_ids", None)
    done = model.generate(
        **inputs,
        max_new_tokens=10,
        do_sample=do_sample,
        logits_processor=[SamplerProcessor.for_model(model, PARAMS)],
        output_logits=True,
        return_dict_in_generate=True,
    )
    width = inputs["input_ids"].shape[1]
    eos = model.generation_config.eos_token_id
    for row, choice in enumerate([0, 0, 1]):
        ids = [token for token in inputs["input_ids"][row].tolist() if token != eos]
        state = new_state(PARAMS, ids, choice=choice, eos_token_ids=[eos])
        sampler = Sampler(model.config.vocab_size)
        for step, found in enumerate(done.sequences[row, width:].tolist()):
            drawn = sampler.sample(done.logits[step][row : row + 1].numpy(), [state]).token_ids[0]
            assert drawn == found
            if drawn == eos:
                break
    assert done.sequences[0, width:].tolist() != done.sequences[2, width:].tolist()


def test_transformers_row_does_not_depend_on_others(torch_model):
    """A row draws the tokens that it draws alone: its random numbers follow from its own prompt."""
    from decoding.adapters.transformers import SamplerProcessor

    model, tokenizer = torch_model
    texts = []
    for prompts in (["The cat"], ["The dog", "The cat"]):
        inputs = tokenizer(prompts, return_tensors="pt", padding=True)
        inputs.pop("token_type_ids", None)
        processor = SamplerProcessor.for_model(model, PARAMS)
        done = model.generate(**inputs, max_new_tokens=8, do_sample=False, logits_processor=[processor])
        texts.append(done[-1, -8:].tolist())
    assert texts[0] == texts[1]


@pytest.fixture(scope="module")
def llama(gguf_file):
    """Return a GGUF model in llama-cpp-python's own class with all logits."""
    llama_cpp = pytest.importorskip("llama_cpp")
    return llama_cpp.Llama(str(gguf_file), n_ctx=256, n_threads=1, n_threads_batch=1, logits_all=True, verbose=False)


def test_llama_cpp(llama):
    """The loop on the low-level context draws from llama.cpp's logits, and a second run gives the same tokens."""
    from decoding.adapters.llama_cpp import eos_token_ids, generate

    prompt = llama.tokenize(b"Once upon a time")
    text = list(generate(llama, prompt, SHORT))
    rows = np.array(llama.scores[: len(prompt) + len(text) - 1], np.float32)
    state = new_state(SHORT, prompt, eos_token_ids=eos_token_ids(llama))
    sampler = Sampler(llama.n_vocab())
    assert [int(sampler.sample(row, [state]).token_ids[0]) for row in rows[len(prompt) - 1 :]] == text
    assert list(generate(llama, prompt, SHORT)) == text
    assert list(generate(llama, prompt, SHORT, choice=1)) != text


def test_llama_cpp_completion(llama):
    """The method create_completion with our processor gives the text of the loop."""
    from llama_cpp import LogitsProcessorList

    from decoding.adapters.llama_cpp import SamplerProcessor, generate

    fields = {name: getattr(SHORT, name) for name in ("seed", "temperature", "min_p")}
    processor = SamplerProcessor(llama, SamplingParams(max_tokens=None, **fields))
    prompt = llama.tokenize(b"Once upon a time")
    expected = llama.detokenize(list(generate(llama, prompt, SHORT)))
    llama.reset()
    done = llama.create_completion(
        prompt, max_tokens=12, temperature=0, repeat_penalty=1.0, logits_processor=LogitsProcessorList([processor])
    )
    assert done["choices"][0]["text"].encode() == expected


def test_onnxruntime(onnx_folder):
    """The loop gives the tokens of our engine with the same session, for several prompts at once."""
    from decoding.adapters.onnxruntime import generate
    from decoding.backends.onnxruntime import OnnxBackend

    llm = LLM(onnx_folder, backend="onnxruntime", batching="shared", prefix_cache=False, num_threads=1)
    prompts = [llm.tokenizer.encode(text) for text in ("Once upon a time", "The")]
    texts = [[], []]
    for row, token_id in generate(OnnxBackend(onnx_folder), prompts, SHORT):
        texts[row].append(token_id)
    assert texts == [llm.complete(prompt, SHORT).choices[0].token_ids for prompt in prompts]


def test_onnxruntime_genai(onnx_folder):
    """The loop gives the tokens of our engine with the backend onnxruntime."""
    import onnxruntime_genai

    from decoding.adapters.onnxruntime_genai import generate

    llm = LLM(onnx_folder, backend="onnxruntime", batching="shared", prefix_cache=False, num_threads=1)
    prompt = llm.tokenizer.encode("Once upon a time")
    eos = llm.engine.model.config.eos_token_ids
    model = onnxruntime_genai.Model(str(onnx_folder))
    text = list(generate(model, prompt, SHORT, max_length=128, eos_token_ids=eos))
    assert text == llm.complete(prompt, SHORT).choices[0].token_ids


def test_parameters_of_a_loop_are_refused(llama):
    """A stop string is refused, because the loop has no text."""
    from decoding.adapters.llama_cpp import generate

    with pytest.raises(ParameterError, match="stop="):
        generate(llama, [1], SamplingParams(stop=["x"]))
