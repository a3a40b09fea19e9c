"""A small correct server of the Completions API over a scripted model, whose parts subclasses can replace by wrong
ones.

Its text is nonsense that depends on all previous tokens, with tokens of one to four characters and of several bytes.
"""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np

from decoding import LLM, DecodingError, SamplingParams
from decoding.completions_api.schema import completion_object, logprobs_object, usage_object
from decoding.engine.outputs import Usage
from decoding.testing.scripted import ScriptedModel, byte_tokenizer, hashed_logits

EXTRA = [
    b" the",
    b"ing",
    b"tion",
    b"er ",
    b"and",
    b"qu",
    b" st",
    "\u00e9".encode(),
    "\u20ac".encode(),
    "\u4e2d".encode(),
]
TOKENIZER = byte_tokenizer(EXTRA, ["<eos>"])
LIKELY = [*b"abcdefghijklmnop ,.", *range(256, 256 + len(EXTRA))]
MODEL = "mock"


def script(token_ids, vocab_size):
    """Return hashed logits for tokens that are text, and very low ones for the others."""
    logits = np.full(vocab_size, -30.0, np.float32)
    logits[LIKELY] = hashed_logits(scale=2.0)(token_ids, len(LIKELY))
    return logits


class BadRequestError(Exception):
    """A refused request: status, message, field."""

    def __init__(self, status, message, param=None):
        super().__init__(message)
        self.status, self.param = status, param


def is_int(value):
    """Return True if the value is an integer and not a boolean."""
    return isinstance(value, int) and not isinstance(value, bool)


def number(low, high):
    """Return a check for a number in a range."""
    return lambda v: isinstance(v, (int, float)) and not isinstance(v, bool) and low <= v <= high


def integer(low, high):
    """Return a check for an integer in a range."""
    return lambda v: is_int(v) and low <= v <= high


def is_stop(value):
    """Return True if the value is a string or a list of up to four, none of them empty."""
    several = [value] if isinstance(value, str) else value
    return isinstance(several, list) and len(several) <= 4 and all(isinstance(s, str) and s for s in several)


def is_bias(value):
    """Return True if the value is {token id: number from -100 to 100}."""
    vocab = range(TOKENIZER.vocab_size)
    ids = isinstance(value, dict) and all(key.isdecimal() and int(key) in vocab for key in value)
    return ids and all(map(number(-100, 100), value.values()))


def is_ids(value):
    """Return True if the value is a list of token ids that is not empty."""
    return isinstance(value, list) and bool(value) and all(is_int(v) and 0 <= v < TOKENIZER.vocab_size for v in value)


def is_prompt(value):
    """Return True if the value is a string, token ids, or a list of either."""
    alone = isinstance(value, str) or is_ids(value)
    return alone or (isinstance(value, list) and bool(value) and all(isinstance(v, str) or is_ids(v) for v in value))


RULES = {
    "prompt": is_prompt,
    "max_tokens": integer(0, 2**31 - 1),
    "stream": lambda v: isinstance(v, bool),
    "echo": lambda v: isinstance(v, bool),
    "stop": is_stop,
    "temperature": number(0, 2),
    "top_p": number(0, 1),
    "frequency_penalty": number(-2, 2),
    "presence_penalty": number(-2, 2),
    "logit_bias": is_bias,
    "logprobs": integer(0, 5),
    "n": integer(1, 128),
    "best_of": integer(0, 20),
    "seed": integer(-(2**63), 2**63 - 1),
    "suffix": lambda v: False,  # the mock has no fill-in-the-middle tokens
    "user": lambda v: isinstance(v, str),
    "stream_options": lambda v: isinstance(v, dict),
    "structured_outputs": lambda v: isinstance(v, dict),
    "response_format": lambda v: isinstance(v, dict),
    "banned_strings": lambda v: isinstance(v, list),
    "token_healing": lambda v: isinstance(v, bool),
    "repetition_detection": lambda v: isinstance(v, dict),
    "logprob_token_ids": is_ids,
}


class MockServer:
    """The application: it takes requests and returns answers as dicts. A wrong server is a subclass."""

    vocabulary = RULES

    def __init__(self):
        """Make the scripted model."""
        model = ScriptedModel(script, TOKENIZER.vocab_size, max_position_embeddings=2048, eos_token_ids=(266,))
        self.llm = LLM.from_parts(model, TOKENIZER, name=MODEL)
        self.lock = threading.Lock()
        self.at_once = self.most_at_once = self.num_requests = 0

    def check(self, body):
        """Return the request without its nulls. Raise BadRequestError if the request is wrong."""
        body = {name: value for name, value in body.items() if value is not None}
        if not isinstance(body.get("model"), str):
            raise BadRequestError(400, "model must be a string", "model")
        if body["model"] != MODEL:
            raise BadRequestError(404, "no such model", "model")
        if "prompt" not in body:
            raise BadRequestError(400, "prompt is required", "prompt")
        for name, value in body.items():
            if name != "model" and not self.rule(name)(value):
                raise BadRequestError(400, f"{name} is out of its range", name)
        if body.get("best_of", 0) and body.get("stream") and body["best_of"] > body.get("n", 1):
            raise BadRequestError(400, "best_of cannot be streamed", "best_of")
        return body

    def rule(self, name):
        """Return the check of a field."""
        if name not in self.vocabulary:
            raise BadRequestError(400, f"{name} is unknown", name)
        return self.vocabulary[name]

    def params(self, body):
        """Return the SamplingParams of a checked request."""
        own = ("max_tokens", "temperature", "top_p", "frequency_penalty", "presence_penalty", "n", "best_of", "seed")
        extensions = ("banned_strings", "token_healing", "repetition_detection", "logprob_token_ids")
        fields = {name: body[name] for name in (*own, "echo", "logprobs", *extensions) if name in body}
        stop = body.get("stop", [])
        bias = {int(key): value for key, value in body.get("logit_bias", {}).items()}
        grammar = body.get("structured_outputs")
        if "response_format" in body:
            grammar = {"json": body["response_format"]["json_schema"]["schema"]}
        stops = [stop] if isinstance(stop, str) else stop
        return SamplingParams(stop=stops, logit_bias=bias, structured=grammar, **fields)

    def prompts(self, body):
        """Return the prompts of the request as a list."""
        prompt = body["prompt"]
        return [prompt] if isinstance(prompt, str) or is_ids(prompt) else prompt

    def complete(self, body):
        """Return the answer to a request without streaming."""
        with self.lock:
            results = self.llm.complete(self.prompts(body), self.params(body))
        return completion_object(results, system_fingerprint="fp")

    def chunks(self, body):
        """Yield the chunks of a stream."""
        head = {
            "id": f"cmpl-{time.monotonic_ns()}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": MODEL,
        }
        params, counts = self.params(body), Usage(0, 0)
        deltas = self.llm.stream(self.prompts(body), params)
        while True:
            with self.lock:
                delta = next(deltas, None)
            if delta is None:
                break
            yield {**head, "choices": [self.piece(delta)]}
        if (body.get("stream_options") or {}).get("include_usage"):
            whole = self.complete(body)["usage"]
            counts = Usage(whole["prompt_tokens"], whole["completion_tokens"])
            yield {**head, "choices": [], "usage": usage_object(counts)}

    def piece(self, delta):
        """Return a piece of a choice as JSON."""
        logprobs = None if delta.logprobs is None else logprobs_object(delta.logprobs)
        return {"index": delta.index, "text": delta.text, "logprobs": logprobs, "finish_reason": delta.finish_reason}

    def events(self, chunks):
        """Yield the chunks as server-sent events, then [DONE]."""
        for chunk in chunks:
            yield b"data: " + json.dumps(chunk).encode() + b"\n\n"
        yield b"data: [DONE]\n\n"

    def error(self, error):
        """Return the body of an error."""
        return {"error": {"message": str(error), "type": "invalid_request_error", "param": error.param, "code": None}}

    def parse(self, data):
        """Return the JSON of a request."""
        try:
            body = json.loads(data, parse_constant=self.constant)
        except ValueError as error:
            raise BadRequestError(400, f"the body is not JSON: {str(error)[:100]}") from None
        if not isinstance(body, dict):
            raise BadRequestError(400, "the body must be an object")
        return body

    def constant(self, word):
        """Refuse NaN and infinities."""
        raise ValueError(f"{word} is not JSON")

    def answer(self, handler, data):
        """Answer a POST to /v1/completions."""
        try:
            body = self.check(self.parse(data))
            if body.get("stream"):
                events = self.events(self.chunks(body))
                first = next(events)  # errors before the first token are HTTP errors
                handler.begin(200, "text/event-stream")
                self.send_events(handler, first, events)
            else:
                handler.send_json(200, self.complete(body))
        except BadRequestError as error:
            handler.send_json(error.status, self.error(error))
        except DecodingError as error:
            problem = error.problems[0].parameter if hasattr(error, "problems") else "prompt"
            handler.send_json(400, self.error(BadRequestError(400, str(error), problem)))

    def send_events(self, handler, first, events):
        """Write the events until the client disconnects."""
        handler.wfile.write(first)
        for event in events:
            handler.wfile.write(event)
            handler.wfile.flush()


class Handler(BaseHTTPRequestHandler):
    """HTTP handler for a MockServer, which is `server.app`."""

    def do_POST(self):
        """Answer a request for completions."""
        app = self.server.app
        with app.lock:
            app.num_requests += 1
            app.at_once += 1
            app.most_at_once = max(app.most_at_once, app.at_once)
        try:
            length = int(self.headers["Content-Length"])
            data = self.rfile.read(length)
            if len(data) == length:
                app.answer(self, data)
        except (BrokenPipeError, ConnectionResetError):
            pass
        finally:
            with app.lock:
                app.at_once -= 1

    def do_GET(self):
        """Answer with the list of models."""
        if self.path == "/v1/models":
            self.send_json(200, {"object": "list", "data": [{"id": MODEL, "object": "model"}]})
        else:
            self.send_json(405, {"error": {"message": "POST it", "type": "x", "param": None, "code": None}})

    def begin(self, status, content_type):
        """Write the status line and headers."""
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Connection", "close")
        self.end_headers()

    def send_json(self, status, body):
        """Write a complete answer."""
        self.begin(status, "application/json")
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *args):
        """Log nothing."""


class serving:  # noqa: N801 - used as a context manager
    """A MockServer on a free port of this machine: `with serving(MockServer()) as url`."""

    def __init__(self, app):
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.http.block_on_close = False
        self.http.app = app
        self.http.request_queue_size = 64
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01})

    def __enter__(self):
        self.thread.start()
        return f"http://127.0.0.1:{self.http.server_port}"

    def __exit__(self, *exc):
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()
