"""Servers that are wrong on purpose, each in one way, and the checks that must tell."""

import json
import random
import time

from mock_server import RULES, BadRequestError, MockServer, number

from decoding import SamplingParams


class StopInText(MockServer):
    """The stop string stays in the text."""

    def params(self, body):
        """With the stop string."""
        fields = super().params(body)
        return replaced(fields, include_stop_str_in_output=True)


def replaced(params, **fields):
    """SamplingParams with other fields."""
    return SamplingParams(**{**{name: getattr(params, name) for name in SamplingParams.__slots__}, **fields})


class StopByToken(MockServer):
    """A stop string counts only where it is a whole token."""

    def complete(self, body):
        """Looks for a token that is a stop string."""
        stops = body.get("stop", [])
        stops = [stops] if isinstance(stops, str) else stops
        whole = super().complete({**body, "stop": [], "logprobs": 1})
        for choice in whole["choices"]:
            tokens = choice["logprobs"]["tokens"]
            ends = [place for place, token in enumerate(tokens) if token in stops]
            if ends:
                choice.update(text="".join(tokens[: ends[0]]), finish_reason="stop")
            if "logprobs" not in body:
                choice["logprobs"] = None
        return whole


class StopFirstListed(MockServer):
    """Of several stop strings the first of the list wins."""

    def params(self, body):
        """Keeps the first alone."""
        stop = body.get("stop")
        return super().params({**body, "stop": stop[:1]} if isinstance(stop, list) else body)


class StopReasonLength(MockServer):
    """What a stop string ended has finish_reason length."""

    def complete(self, body):
        """Always length."""
        whole = super().complete(body)
        for choice in whole["choices"]:
            choice["finish_reason"] = "length"
        return whole


class StopLeaksInStream(MockServer):
    """A stream shows the beginning of a stop string before it is complete."""

    def chunks(self, body):
        """The text that is not cut, token by token, up to where it would have been cut."""
        stop = body.get("stop")
        if not stop:
            yield from super().chunks(body)
            return
        target, seen = len(self.complete(body)["choices"][0]["text"]), ""
        for chunk in super().chunks({**body, "stop": []}):
            seen += chunk["choices"][0]["text"]
            yield chunk
            if len(seen) > target:
                return


class EchoIgnored(MockServer):
    """echo is taken and does nothing."""

    def params(self, body):
        """Without echo."""
        return super().params({**body, "echo": False})


class OffsetsFromCompletion(MockServer):
    """text_offset counts from the completion's start."""

    def complete(self, body):
        """Offsets less the prompt's length."""
        whole = super().complete(body)
        for choice in whole["choices"]:
            if choice["logprobs"] and choice["logprobs"]["text_offset"]:
                first = choice["logprobs"]["text_offset"][0]
                choice["logprobs"]["text_offset"] = [o - first for o in choice["logprobs"]["text_offset"]]
        return whole


class LogprobsScaled(MockServer):
    """Log-probabilities are those after temperature."""

    def params(self, body):
        """In mode scaled."""
        warm = body.get("temperature", 1) > 0
        return replaced(super().params(body), logprobs_mode="scaled" if warm else "raw")


class LogprobsBiased(MockServer):
    """Log-probabilities are those after the bias."""

    def params(self, body):
        """In mode penalized."""
        return replaced(super().params(body), logprobs_mode="penalized")


class LogprobsRounded(MockServer):
    """top_logprobs are rounded, token_logprobs are not."""

    def complete(self, body):
        """Three decimals."""
        whole = super().complete(body)
        for choice in whole["choices"]:
            for top in (choice["logprobs"] or {}).get("top_logprobs", []):
                top.update({token: round(value, 3) for token, value in (top or {}).items()})
        return whole


class ChoicesEqual(MockServer):
    """All choices are the first one (sglang#28805)."""

    def complete(self, body):
        """Copies."""
        whole = super().complete(body)
        n = body.get("n", 1)
        for choice in whole["choices"]:
            choice["text"] = whole["choices"][choice["index"] // n * n]["text"]
        return whole


class SeedIgnored(MockServer):
    """seed is taken and does nothing."""

    def params(self, body):
        """Another seed each time."""
        return super().params({**body, "seed": random.getrandbits(60)})


class SeedOf32Bits(MockServer):
    """Of a seed 32 bits count."""

    def params(self, body):
        """Modulo 2**32."""
        return super().params({**body, "seed": body["seed"] % 2**32} if "seed" in body else body)


class SeedFixed(MockServer):
    """Without a seed it is 0."""

    def params(self, body):
        """A default."""
        return super().params({"seed": 0, **body})


class SeedLostInCompany(MockServer):
    """A seed counts only while nobody else is asking (vllm#51226)."""

    def params(self, body):
        """Waits until somebody is, a while at most: those who ask at once may come one after another."""
        patience = time.monotonic() + 0.3
        while self.at_once == 1 and time.monotonic() < patience:
            time.sleep(0.002)
        alone = self.at_once == 1
        return super().params(body if alone or "seed" not in body else {**body, "seed": 99})


class UsageOfOneChoice(MockServer):
    """usage counts one choice."""

    def complete(self, body):
        """Divided by n."""
        whole = super().complete(body)
        usage = whole["usage"]
        usage["completion_tokens"] //= body.get("n", 1)
        usage["total_tokens"] = usage["prompt_tokens"] + usage["completion_tokens"]
        return whole


class BestOfFirst(MockServer):
    """best_of returns the first candidate."""

    def params(self, body):
        """As many candidates as choices; usage is right."""
        return super().params({name: value for name, value in body.items() if name != "best_of"})

    def complete(self, body):
        """With the usage of all."""
        whole = super().complete(body)
        many = body.get("best_of") or 0
        if many > body.get("n", 1):
            usage = whole["usage"]
            usage["completion_tokens"] *= many
            usage["total_tokens"] = usage["prompt_tokens"] + usage["completion_tokens"]
        return whole


class NoDone(MockServer):
    """A stream just ends."""

    def events(self, chunks):
        """Without the last event."""
        return (event for event in super().events(chunks) if b"[DONE]" not in event)


class OneNewline(MockServer):
    """Events are separated by one newline."""

    def events(self, chunks):
        """One less."""
        return (event[:-1] for event in super().events(chunks))


class BufferedStream(MockServer):
    """All of the text comes in the last chunk."""

    def chunks(self, body):
        """One piece a choice."""
        if "logprobs" in body:
            yield from super().chunks(body)
            return
        pieces = {}
        for chunk in super().chunks(body):
            for piece in chunk["choices"]:
                text = pieces.get(piece["index"], (None, ""))[1] + piece["text"]
                pieces[piece["index"]] = (chunk, text)
        for chunk, text in pieces.values():
            chunk["choices"][0]["text"] = text
            yield chunk


class ReasonOnEveryChunk(MockServer):
    """Every chunk has a finish_reason."""

    def piece(self, delta):
        """Length."""
        return {**super().piece(delta), "finish_reason": "length"}


class BrokenCharacters(MockServer):
    """Characters of several bytes are broken in streams."""

    def piece(self, delta):
        """U+FFFD for each of them."""
        piece = super().piece(delta)
        return {**piece, "text": "".join(c if ord(c) < 128 else "\ufffd" for c in piece["text"])}


class ErrorInStream(MockServer):
    """A bad request that streams gets a 200 with an event."""

    def answer(self, handler, data):
        """200 first."""
        try:
            self.check(self.parse(data))
        except BadRequestError as error:
            if b'"stream": true' in data:
                handler.begin(200, "text/event-stream")
                handler.wfile.write(b"data: " + json.dumps(self.error(error)).encode() + b"\n\n")
                return
        super().answer(handler, data)


class Clamps(MockServer):
    """Temperatures above 2 are taken as 2."""

    vocabulary = RULES | {"temperature": number(0, float("inf"))}

    def params(self, body):
        """At most 2."""
        return super().params({**body, "temperature": min(2, body.get("temperature", 1))})


class TrueIsOne(MockServer):
    """Booleans are numbers."""

    vocabulary = RULES | {"max_tokens": lambda v: isinstance(v, int) and v >= 0}

    def params(self, body):
        """True is 1."""
        return super().params({**body, "max_tokens": int(body.get("max_tokens", 16))})


class FailsOnNaN(MockServer):
    """NaN is a 500."""

    def constant(self, word):
        """Nobody catches this."""
        raise RuntimeError(word)

    def answer(self, handler, data):
        """The framework does."""
        try:
            super().answer(handler, data)
        except RuntimeError:
            handler.send_json(500, {"error": "Internal Server Error"})


class Model(MockServer):
    """Any model's name is taken."""

    def check(self, body):
        """Its own name instead."""
        return super().check({**body, "model": "mock"} if isinstance(body.get("model"), str) else body)


class ErrorsAsText(MockServer):
    """Errors are {detail: text}, without the field's name."""

    def error(self, error):
        """FastAPI's way."""
        return {"detail": "bad request"}


class NullsRefused(MockServer):
    """A null is a value of a wrong type."""

    def check(self, body):
        """Before they are dropped."""
        for name, value in body.items():
            if value is None:
                raise BadRequestError(400, f"{name} must not be null", name)
        return super().check(body)


class SixtyFourByDefault(MockServer):
    """max_tokens is 64 by default."""

    def params(self, body):
        """Four times too many."""
        return super().params({"max_tokens": 64, **body})


class StartTokenAdded(MockServer):
    """A start token is put before prompts of token ids."""

    def prompts(self, body):
        """Token 1."""
        return [[1, *p] if isinstance(p, list) else p for p in super().prompts(body)]


class TopPExcludes(MockServer):
    """The token that crosses top_p is dropped."""

    def params(self, body):
        """A threshold that is a good deal lower keeps one token less."""
        p = body.get("top_p", 1)
        return super().params({**body, "top_p": p if p == 1 else p * 0.5})


class TemperatureSquared(MockServer):
    """The temperature is applied twice."""

    def params(self, body):
        """T * T."""
        return super().params({**body, "temperature": min(2, body.get("temperature", 1) ** 2)})


class NeverGivesUp(MockServer):
    """One request at a time, and a stream whose reader has gone goes on to its end."""

    def send_events(self, handler, first, events):
        """Slowly."""
        with self.lock_of_all():
            try:
                super().send_events(handler, first, map(self.slowly, events))
            except OSError:
                for event in events:
                    self.slowly(event)

    def lock_of_all(self):
        """Held by whoever generates."""
        self.__dict__.setdefault("_busy", __import__("threading").Lock())
        return self._busy

    def slowly(self, event):
        """Ten milliseconds a token."""
        time.sleep(0.01)
        return event

    def complete(self, body):
        """Waits its turn."""
        with self.lock_of_all():
            return super().complete(body)


class GrammarIgnored(MockServer):
    """Grammars are taken, and have no effect."""

    def params(self, body):
        """Without them."""
        return super().params({k: v for k, v in body.items() if k not in ("structured_outputs", "response_format")})


class GrammarNotAnchored(MockServer):
    """A regular expression need only match the beginning."""

    def params(self, body):
        """With anything behind it."""
        grammar = body.get("structured_outputs", {})
        loose = {"regex": grammar["regex"] + "[a-c]{3}"} if "regex" in grammar else grammar
        return super().params({**body, "structured_outputs": loose} if loose else body)


class BannedOnce(MockServer):
    """Of several banned strings the first counts."""

    def params(self, body):
        """Keeps the first alone."""
        return super().params({**body, "banned_strings": body.get("banned_strings", [])[:1]})


class HealingRepeatsPrompt(MockServer):
    """The text begins with the bytes that healing took back."""

    def complete(self, body):
        """With the last character of the prompt first, unless the prompt is echoed."""
        whole = super().complete(body)
        if body.get("token_healing") and not body.get("echo"):
            for choice in whole["choices"]:
                choice["text"] = body["prompt"][-1] + choice["text"]
        return whole


class HealingIgnored(MockServer):
    """token_healing is accepted and does nothing."""

    def params(self, body):
        """Without it."""
        return super().params({name: value for name, value in body.items() if name != "token_healing"})


class LoopStopsLate(MockServer):
    """A loop ends the text one repetition too late."""

    def params(self, body):
        """With a larger count."""
        detection = body.get("repetition_detection")
        return super().params(
            {**body, "repetition_detection": {**detection, "min_count": detection["min_count"] + 1}}
            if detection
            else body
        )


class LoopStopsOthers(MockServer):
    """repetition_detection cuts texts that do not repeat themselves."""

    def params(self, body):
        """Ends every such text after eight tokens."""
        return super().params({**body, "max_tokens": 8} if "repetition_detection" in body else body)


class ChosenOneTokenLate(MockServer):
    """Log-probabilities of chosen ids are those of the position before."""

    def complete(self, body):
        """Moves the column."""
        whole = super().complete(body)
        for choice in whole["choices"]:
            columns = (choice["logprobs"] or {}).get("by_token_id")
            if columns:
                choice["logprobs"]["by_token_id"] = [columns[-1], *columns[:-1]]
        return whole


class ChosenOnlyFirst(MockServer):
    """Only the first of the chosen ids is reported."""

    def complete(self, body):
        """Drops the others."""
        whole = super().complete(body)
        for choice in whole["choices"]:
            columns = (choice["logprobs"] or {}).get("by_token_id")
            if columns:
                choice["logprobs"]["by_token_id"] = [dict(list(one.items())[:1]) for one in columns]
        return whole


WRONG = {
    StopInText: (
        ["stop.*"],
        {"stop.cut", "stop.reason", "stop.start", "stop.across", "stop.inside", "stop.earliest", "stop.overlap"}
        | {"stop.four", "stop.multibyte", "stop.stream"},
    ),
    StopByToken: (
        ["stop.*"],
        {"stop.cut", "stop.reason", "stop.start", "stop.across", "stop.inside", "stop.earliest", "stop.overlap"}
        | {"stop.four"},
    ),
    StopFirstListed: (["stop.*"], {"stop.earliest", "stop.overlap", "stop.four"}),
    StopReasonLength: (["stop.*", "max_tokens.*"], {"stop.reason"}),
    StopLeaksInStream: (["stop.*", "stream.*"], {"stop.stream"}),
    EchoIgnored: (["echo.*"], {"echo.text", "echo.logprobs", "echo.score"}),
    OffsetsFromCompletion: (["logprobs.*"], {"logprobs.offsets"}),
    LogprobsScaled: (["logprobs.*"], {"logprobs.raw"}),
    LogprobsBiased: (["logprobs.*"], {"logprobs.bias"}),
    LogprobsRounded: (["logprobs.*"], {"logprobs.same"}),
    ChoicesEqual: (["n.*", "draws.*"], {"n.differ"}),
    SeedIgnored: (["seed.*", "n.*"], {"seed.repeats", "seed.company"}),
    SeedOf32Bits: (["seed.*"], {"seed.differs"}),
    SeedFixed: (["seed.*"], {"seed.absent"}),
    SeedLostInCompany: (["seed.*", "greedy.*"], {"seed.company"}),
    UsageOfOneChoice: (["usage.*", "n.*"], {"usage.choices"}),
    BestOfFirst: (["best_of.*"], {"best_of.best", "best_of.less"}),
    NoDone: (["stream.*"], {"stream.done"}),
    OneNewline: (["stream.*"], {"stream.framing"}),
    BufferedStream: (["stream.*"], {"stream.progress"}),
    ReasonOnEveryChunk: (["stream.*"], {"stream.finish"}),
    BrokenCharacters: (["stream.*"], {"stream.text", "stream.choices", "stream.unicode"}),
    ErrorInStream: (["error.*", "stream.*"], {"error.stream"}),
    Clamps: (["range.*"], {"range.temperature"}),
    TrueIsOne: (["range.*", "error.numbers"], {"range.max_tokens"}),
    FailsOnNaN: (["error.*"], {"error.numbers"}),
    Model: (["error.*", "range.model"], {"error.model"}),
    ErrorsAsText: (["error.*"], {"error.body", "error.param"}),
    NullsRefused: (["default.*"], {"default.null"}),
    SixtyFourByDefault: (["default.*", "max_tokens.*"], {"default.max_tokens"}),
    StartTokenAdded: (["prompt.*"], {"prompt.ids", "prompt.id_lists"}),
    TopPExcludes: (["draws.*"], {"draws.top_p"}),
    TemperatureSquared: (["draws.*"], {"draws.temperature"}),
    GrammarIgnored: (["grammar.*", "banned.*"], {"grammar.regex", "grammar.choice", "grammar.json", "grammar.bad"}),
    GrammarNotAnchored: (["grammar.*"], {"grammar.regex"}),
    BannedOnce: (["grammar.*", "banned.*"], {"banned.text"}),
    HealingRepeatsPrompt: (["healing.*"], {"healing.text", "healing.tokens"}),
    HealingIgnored: (["healing.*"], {"healing.tokens"}),
    LoopStopsLate: (["loop.*"], {"loop.stop"}),
    LoopStopsOthers: (["loop.*"], {"loop.other"}),
    ChosenOneTokenLate: (["chosen.*"], {"chosen.same"}),
    ChosenOnlyFirst: (["chosen.*"], {"chosen.columns", "chosen.same"}),
    NeverGivesUp: (["cancel.*"], {"cancel.stream"}),
}
"""For each server, the checks to run and those that must fail; no other may."""
