"""Tests of the command line with a scripted model."""

import io
import json
import shlex
from dataclasses import fields

import pytest

from decoding import __version__, cli, llm
from decoding.cli import command
from decoding.cli.complete import DEFAULT_MAX_TOKENS
from decoding.model_loading import BUNDLED_NAME
from decoding.params import PARAMETERS, SamplingParams
from decoding.testing.scripted import ScriptedModel, byte_tokenizer, hashed_logits

FIM = ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"]
LETTERS = ",".join(str(byte) for byte in b"abcdefgh \n")


@pytest.fixture(autouse=True)
def scripted(monkeypatch):
    """Replace LLM(path) by a scripted model that is named after the path."""

    def make(path=None, fim_template=None, profile="openai"):
        model = ScriptedModel(hashed_logits(), 260, eos_token_ids=(256,))
        tokenizer = byte_tokenizer(special=["<eos>", *FIM])
        name = BUNDLED_NAME if path is None else path.rpartition("/")[2]
        return real.from_parts(model, tokenizer, name=name, fim_template=fim_template, profile=profile)

    real = llm.LLM
    monkeypatch.setattr(llm, "LLM", make)
    return make


@pytest.fixture
def run(capsys):
    """Return a function that runs `decoding complete` on letters only and returns (exit code, stdout, stderr)."""

    def call(*arguments):
        code = cli.main(["complete", *arguments, f"--allowed-token-ids={LETTERS}"])
        return code, *capsys.readouterr()

    return call


def expected(scripted, **params):
    """Return the library's result."""
    allowed = [int(token_id) for token_id in LETTERS.split(",")]
    return scripted().complete("ab", SamplingParams(allowed_token_ids=allowed, **params))


def test_the_text_goes_to_stdout_and_the_seed_to_stderr(run, scripted):
    """The text and a newline go to stdout, the seed to stderr."""
    code, out, err = run("ab", "--max-tokens=9")
    assert code == 0
    seed = int(err.splitlines()[0].removeprefix("seed: "))
    assert out == expected(scripted, seed=seed, max_tokens=9).choices[0].text + "\n"


def test_the_replay_command_replays(run, capsys):
    """The printed replay command gives the same text and prints the same command again."""
    _, out, err = run("ab", "--temperature", "1.5")
    command = shlex.split(err.split("replay: ")[1])
    assert command[0] == "decoding"
    assert cli.main(command[1:]) == 0
    again = capsys.readouterr()
    assert again.out == out
    assert again.err == err


def test_128_tokens_by_default(run, scripted):
    """The default of --max-tokens is 128."""
    _, out, _ = run("ab", "--seed", "1")
    assert out == expected(scripted, seed=1, max_tokens=128).choices[0].text + "\n"
    assert DEFAULT_MAX_TOKENS == 128


@pytest.mark.parametrize("command", ["complete", "explain"])
def test_every_sampling_parameter_has_a_flag(capsys, command):
    """Every field of SamplingParams has a flag of its name in --help."""
    with pytest.raises(SystemExit) as caught:
        cli.main([command, "--help"])
    assert caught.value.code == 0
    helped = capsys.readouterr().out
    for field in fields(SamplingParams):
        assert "--" + field.name.replace("_", "-") in helped


def test_flags_become_parameters():
    """Every flag, in every way of writing its value, becomes its parameter."""
    arguments = """--max-tokens none --min-tokens 1 --n 2 --best-of 3 --seed -5 --repetition-penalty 1.5
        --repetition-penalty-scope 64 --frequency-penalty -.5 --presence-penalty 1e-1 --context-frequency-penalty 1
        --logit-bias 5=-1.5 --logit-bias {"7":2} --allowed-token-ids 1,2 --allowed-token-ids 3 --banned-token-ids 4
        --temperature 0 --top-k 5 --top-p .5 --min-p 0.1 --stop a --stop b --stop-token-ids 8
        --include-stop-str-in-output --ignore-eos --logprobs 2 --logprobs-mode final,raw --echo --suffix s
        --no-skip-special-tokens --dry-multiplier .8 --dry-base 2 --dry-allowed-length 3 --dry-range none
        --dry-sequence-breakers . --dry-sequence-breakers ; --no-repeat-ngram-size 4 --bad-words no --bad-words No
        --dynatemp-range .5 --dynatemp-exponent 2 --smoothing-factor .3 --smoothing-curve 1.5 --typical-p .9
        --no-parse-special
        --top-n-sigma 1.5 --epsilon-cutoff .01 --eta-cutoff .02 --top-a .1 --xtc-probability .5 --xtc-threshold .2
        --mirostat-tau none --mirostat-eta .2 --mirostat-version 1 --top-h .4 --p-less norm --min-k 3 --tfs .9
        --adaptive-p-target .3 --adaptive-p-decay .8 --skew -0.5 --structured {"regex":"a+"}
        --no-token-healing --banned-strings bad --banned-strings worse
        --repetition-detection {"max_pattern_size":4,"min_count":3}
        --logprob-token-ids 5,6"""
    options = vars(command.make_parser().parse_args(["complete", "x", *arguments.split()]))
    assert SamplingParams(**{name: options[name] for name in PARAMETERS}) == SamplingParams(
        max_tokens=None,
        min_tokens=1,
        n=2,
        best_of=3,
        seed=-5,
        repetition_penalty=1.5,
        repetition_penalty_scope=64,
        frequency_penalty=-0.5,
        presence_penalty=0.1,
        context_frequency_penalty=1,
        logit_bias={5: -1.5, 7: 2},
        allowed_token_ids=[1, 2, 3],
        banned_token_ids=[4],
        temperature=0,
        top_k=5,
        top_p=0.5,
        min_p=0.1,
        stop=["a", "b"],
        stop_token_ids=[8],
        include_stop_str_in_output=True,
        ignore_eos=True,
        logprobs=2,
        logprobs_mode=["final", "raw"],
        dry_multiplier=0.8,
        dry_base=2,
        dry_allowed_length=3,
        dry_range=None,
        dry_sequence_breakers=[".", ";"],
        no_repeat_ngram_size=4,
        bad_words=["no", "No"],
        dynatemp_range=0.5,
        dynatemp_exponent=2,
        smoothing_factor=0.3,
        smoothing_curve=1.5,
        typical_p=0.9,
        top_n_sigma=1.5,
        epsilon_cutoff=0.01,
        eta_cutoff=0.02,
        top_a=0.1,
        xtc_probability=0.5,
        xtc_threshold=0.2,
        mirostat_tau=None,
        structured={"regex": "a+"},
        token_healing=False,
        banned_strings=["bad", "worse"],
        repetition_detection={"max_pattern_size": 4, "min_count": 3},
        logprob_token_ids=[5, 6],
        mirostat_eta=0.2,
        mirostat_version=1,
        top_h=0.4,
        p_less="norm",
        min_k=3,
        tfs=0.9,
        adaptive_p_target=0.3,
        adaptive_p_decay=0.8,
        skew=-0.5,
        echo=True,
        suffix="s",
        skip_special_tokens=False,
        parse_special=False,
    )


def test_json_is_the_completion_object(run, scripted):
    """--json prints the completion object with all choices, and nothing else, on stdout."""
    code, out, err = run("ab", "--json", "--n=2", "--best-of=3", "--logprobs=1", "--seed=4", "--max-tokens=5")
    made = json.loads(out)
    result = expected(scripted, n=2, best_of=3, logprobs=1, seed=4, max_tokens=5)
    assert code == 0
    assert [choice["text"] for choice in made["choices"]] == [choice.text for choice in result.choices]
    assert made["choices"][0]["logprobs"]["token_logprobs"] == result.choices[0].logprobs.token_logprobs
    assert made["object"] == "text_completion"
    assert made["usage"]["completion_tokens"] == 15
    assert err.startswith("seed: 4\n")


def test_two_choices_have_headings(run, scripted):
    """Without --json, each of two choices has a heading with its index and finish reason."""
    _, out, _ = run("ab", "--n=2", "--seed=4", "--max-tokens=5")
    first, second = expected(scripted, n=2, seed=4, max_tokens=5).choices
    assert out == f"--- choice 0: length ---\n{first.text}\n--- choice 1: length ---\n{second.text}\n"


def test_best_of_alone_prints_the_best(run, scripted):
    """--best-of without --n prints one text without a heading."""
    _, out, _ = run("ab", "--best-of=5", "--seed=4", "--max-tokens=5")
    assert out == expected(scripted, best_of=5, seed=4, max_tokens=5).choices[0].text + "\n"


def test_logprobs_are_a_table_on_stderr(run, scripted):
    """--logprobs prints one line per token on stderr: log-probability, rank, token and alternatives."""
    _, out, err = run("ab", "--logprobs=1", "--seed=4", "--max-tokens=3", "--echo")
    logprobs = expected(scripted, logprobs=1, seed=4, max_tokens=3, echo=True).choices[0].logprobs
    lines = err.splitlines()[2:7]  # behind the seed and the command
    assert out.startswith("ab")
    assert lines[0].split() == ["-", "-", "'a'"]
    assert lines[4].split()[:2] == [f"{logprobs.token_logprobs[4]:.4f}", str(logprobs.ranks[4])]
    assert repr(logprobs.tokens[4]) in lines[4]


def test_the_prompt_from_stdin_or_a_file(run, scripted, monkeypatch, tmp_path):
    """A prompt from stdin or a file keeps its final newline and drops a byte order mark; UTF-16 is refused."""
    (tmp_path / "prompt").write_bytes("ab\u2019\n".encode())
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("ab\u2019\n".encode())))
    _, from_stdin, _ = run("-", "--echo", "--seed=1")
    _, from_file, _ = run("--prompt-file", str(tmp_path / "prompt"), "--echo", "--seed=1")
    assert from_stdin == from_file
    (tmp_path / "marked").write_bytes("\ufeffab\u2019\n".encode())
    assert run("--prompt-file", str(tmp_path / "marked"), "--echo", "--seed=1")[1] == from_file
    (tmp_path / "wide").write_bytes("ab".encode("utf-16"))
    code, _, err = run("--prompt-file", str(tmp_path / "wide"))
    assert (code, "it begins as UTF-16 does" in err) == (2, True)
    assert from_file.startswith("ab\u2019\n")


def test_the_model_flag(run):
    """--model is passed to LLM, and its name is in the JSON."""
    _, out, _ = run("ab", "--json", "--model", "some/folder")
    assert json.loads(out)["model"] == "folder"


def test_suffix(run):
    """--suffix fills in the middle."""
    code, out, _ = run("ab", "--suffix", "yz", "--echo", "--max-tokens=1", "--ignore-eos")
    assert code == 0
    assert out.startswith("ab")


def test_fim_template(run):
    """--fim-template sets the form of the prompt with a suffix; a wrong template is refused."""
    template = "<|fim_prefix|>{prefix}<|fim_middle|>{suffix}"
    _, out, _ = run("ab", "--suffix", "yz", "--fim-template", template, "--json", "--max-tokens=1", "--seed=1")
    assert json.loads(out)["usage"]["prompt_tokens"] == 6
    code, _, err = run("ab", "--suffix", "yz", "--fim-template", "{prefix}")
    assert code == 2
    assert "fim_template" in err


def test_a_capsule_is_saved_and_replayed(run, capsys, tmp_path):
    """`decoding replay` replays a saved capsule, and reports a difference with exit code 1."""
    path = tmp_path / "capsule.json"
    code, out, _ = run("ab", "--max-tokens=4", "--seed=3", "--logprobs=0", "--capsule", str(path))
    assert code == 0
    assert cli.main(["replay", str(path)]) == 0
    assert capsys.readouterr().out == "the same, to the bit\n"
    assert cli.main(["replay", "--force", str(path)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 5
    capsule = json.loads(path.read_text())
    capsule["choices"][0]["token_ids"][2] += 1
    path.write_text(json.dumps(capsule))
    assert cli.main(["replay", str(path)]) == 1
    assert "choice 0: token 2 is" in capsys.readouterr().out
    assert out


def test_another_models_capsule_needs_its_model(run, capsys, tmp_path):
    """A capsule of another model needs --model, and the error names both models."""
    path = tmp_path / "capsule.json"
    run("ab", "--max-tokens=4", "--seed=3", "--capsule", str(path), "--model=other")
    assert cli.main(["replay", str(path)]) == 2
    assert "the model 'other', without it 'bundled' would run" in capsys.readouterr().err
    assert cli.main(["replay", str(path), "--model=moved/other"]) == 0


def test_the_seed_comes_before_the_text(run, monkeypatch):
    """Seed and replay command are printed before the first step, so an interrupted run can be replayed."""

    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("decoding.engine.shared_engine.SharedEngine.step", interrupted)
    code, out, err = run("ab")
    assert (code, out.strip()) == (130, "")
    assert err.splitlines()[0].startswith("seed: ")
    assert err.splitlines()[1].startswith("replay: decoding complete --seed=")


def test_escapes(run):
    """--escape interprets backslashes in the prompt, the suffix and the stop strings."""
    _, out, _ = run(r"a\nb\u0041\\", "--echo", "--max-tokens=0")
    assert out == "a\\nb\\u0041\\\\\n"
    _, out, _ = run(r"a\nb\u0041\\\x42\t", "--echo", "--max-tokens=0", "--escape")
    assert out == "a\nbA\\B\t\n"
    _, plain, _ = run("ab", "--suffix=\n", "--stop=\n", "--seed=1")
    assert run("ab", r"--suffix=\n", r"--stop=\n", "--seed=1", "--escape")[1] == plain
    for wrong in (r"a\q", "a\\", r"\x4", r"\UFFFFFFFF"):
        code, _, err = run(wrong, "--escape")
        assert (code, "is not an escape" in err) == (2, True), wrong


def test_characters_that_stdout_cannot_encode(run, monkeypatch):
    """Characters that stdout cannot encode are written as escapes, with one warning."""
    stdout = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", stdout)
    _, _, err = run("\u6f22\u5b57", "--echo", "--max-tokens=0")
    assert stdout.buffer.getvalue() == rb"\u6f22\u5b57" + b"\n"
    assert err.count("warning: the encoding of standard output, ascii, lacks") == 1


def test_a_profile_and_plain_text(run, scripted):
    """--profile sets the sampler's profile, and --no-parse-special makes special tokens plain text."""
    _, out, _ = run("<eos>b", "--json", "--max-tokens=0")
    assert json.loads(out)["usage"]["prompt_tokens"] == 2
    _, out, _ = run("<eos>b", "--json", "--max-tokens=0", "--no-parse-special")
    assert json.loads(out)["usage"]["prompt_tokens"] == 6
    plain, other = (
        json.loads(run("ab", "--json", "--seed=1", *flags)[1])["system_fingerprint"]
        for flags in ([], ["--profile=llama_cpp"])
    )
    assert plain != other
    code, _, err = run("ab", "--profile=llama")
    assert (code, "profile='llama': must be one of" in err) == (2, True)


def test_a_missing_template_names_the_flag(run, monkeypatch):
    """The error of a suffix without markers names --fim-template."""
    monkeypatch.setattr("decoding.text.fim.CONVENTIONS", ())
    code, _, err = run("ab", "--suffix=x")
    assert code == 2
    assert "suffix='x': must be absent" in err
    assert "--fim-template gives a template" in err
    assert "LLM(" not in err


def test_a_batch_with_failures_is_exit_code_1(capsys, tmp_path):
    """`decoding batch` exits with 1 if a line failed, in this run or in an earlier one."""
    body = {"model": "m", "prompt": "ab", "max_tokens": 2, "logprobs": 7, "repetition_penalty": 1.2}
    lines = [
        {"custom_id": name, "method": "POST", "url": "/v1/completions", "body": {**body, **changes}}
        for name, changes in {"a": {}, "b": {"n": 0}}.items()
    ]
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    command = ["batch", str(source), str(target), "--model=m=some/folder", "--max-logprobs=7"]
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert cli.main(command) == 1
    hint, counts = capsys.readouterr().err.splitlines()
    assert hint.startswith("warning: a request has repetition_penalty from 1.0 to 1.5")
    assert counts == f"2 answers; 1 of 2 lines failed: {target}"
    assert cli.main(command) == 1
    assert capsys.readouterr().err == f"0 answers, 2 were there already; 1 of 2 lines failed: {target}\n"
    source.write_text(json.dumps(lines[0]) + "\n")
    assert cli.main(command) == 0


def test_version(capsys):
    """--version prints the version of the distribution."""
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"decoding {__version__}\n"


def test_constraints_of_the_text_by_flags(run, scripted):
    """Flags for grammars, banned strings, repetitions, healing and chosen ids give the library's text."""
    pytest.importorskip("llguidance")
    grammar = {"regex": "[abc]{6,8}"}
    code, out, err = run(
        *("ab", "--seed=1", f"--structured={json.dumps(grammar)}", "--banned-strings=ab", "--logprobs=0"),
        *("--logprob-token-ids=97,98", '--repetition-detection={"max_pattern_size": 3, "min_count": 3}'),
    )
    loop = {"max_pattern_size": 3, "min_count": 3}
    fields = {"structured": grammar, "banned_strings": ["ab"], "repetition_detection": loop, "logprobs": 0}
    choice = expected(scripted, seed=1, max_tokens=128, logprob_token_ids=[97, 98], **fields).choices[0]
    assert (code, out) == (0, choice.text + "\n")
    assert "ab" not in out
    assert f"97: {choice.logprobs.by_token_id[0][97]:.4f}  98: " in err
    code, out, _ = run("ab", "--seed=1", "--token-healing", "--max-tokens=3")
    assert out == expected(scripted, seed=1, max_tokens=3, token_healing=True).choices[0].text + "\n"
    code, _, err = run("ab", '--structured={"regex": "("}')
    assert (code, "structured={'regex': '('}" in err) == (2, True)
