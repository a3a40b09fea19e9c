"""Servers with one fault each, and the checks that must fail for it."""

import json
import random
import time

from mock_server import RULES, BadRequestError, MockServer, number

from decoding import SamplingParams


class StopInText(MockServer):
    """A server that leaves the stop string in the text."""

    def params(self, body):
        """Include the stop string."""
        fields = super().params(body)
        return replaced(fields, include_stop_str_in_output=True)


def replaced(params, **fields):
    """Return SamplingParams with other fields."""
    return SamplingParams(**{**{name: getattr(params, name) for name in SamplingParams.__slots__}, **fields})


class StopByToken(MockServer):
    """A server that finds a stop string only if it is a whole token."""

    def complete(self, body):
        """Cut the text at the first token that is a stop string."""
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
    """A server that uses only the first stop string of a list."""

    def params(self, body):
        """Keep only the first stop string."""
        stop = body.get("stop")
        return super().params({**body, "stop": stop[:1]} if isinstance(stop, list) else body)


class StopReasonLength(MockServer):
    """A server with finish_reason "length" for texts that a stop string ended."""

    def complete(self, body):
        """Set finish_reason to "length"."""
        whole = super().complete(body)
        for choice in whole["choices"]:
            choice["finish_reason"] = "length"
        return whole


class StopLeaksInStream(MockServer):
    """A server whose streams show the beginning of a stop string before it is complete."""

    def chunks(self, body):
        """Yield the uncut text token by token, up to the offset of the cut."""
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
    """A server that accepts echo and ignores it."""

    def params(self, body):
        """Remove echo."""
        return super().params({**body, "echo": False})


class OffsetsFromCompletion(MockServer):
    """A server whose text_offset counts from the start of the completion."""

    def complete(self, body):
        """Subtract the length of the prompt from the offsets."""
        whole = super().complete(body)
        for choice in whole["choices"]:
            if choice["logprobs"] and choice["logprobs"]["text_offset"]:
                first = choice["logprobs"]["text_offset"][0]
                choice["logprobs"]["text_offset"] = [o - first for o in choice["logprobs"]["text_offset"]]
        return whole


class LogprobsScaled(MockServer):
    """A server whose log-probabilities are computed after temperature."""

    def params(self, body):
        """Use mode "scaled"."""
        warm = body.get("temperature", 1) > 0
        return replaced(super().params(body), logprobs_mode="scaled" if warm else "raw")


class LogprobsBiased(MockServer):
    """A server whose log-probabilities are computed after the bias."""

    def params(self, body):
        """Use mode "penalized"."""
        return replaced(super().params(body), logprobs_mode="penalized")


class LogprobsRounded(MockServer):
    """A server that rounds top_logprobs but not token_logprobs."""

    def complete(self, body):
        """Round to three decimals."""
        whole = super().complete(body)
        for choice in whole["choices"]:
            for top in (choice["logprobs"] or {}).get("top_logprobs", []):
                top.update({token: round(value, 3) for token, value in (top or {}).items()})
        return whole


class ChoicesEqual(MockServer):
    """A server that returns the first choice n times (sglang#28805)."""

    def complete(self, body):
        """Copy the first text of each prompt."""
        whole = super().complete(body)
        n = body.get("n", 1)
        for choice in whole["choices"]:
            choice["text"] = whole["choices"][choice["index"] // n * n]["text"]
        return whole


class SeedIgnored(MockServer):
    """A server that accepts seed and ignores it."""

    def params(self, body):
        """Use a random seed."""
        return super().params({**body, "seed": random.getrandbits(60)})


class SeedOf32Bits(MockServer):
    """A server that uses only 32 bits of a seed."""

    def params(self, body):
        """Reduce the seed modulo 2**32."""
        return super().params({**body, "seed": body["seed"] % 2**32} if "seed" in body else body)


class SeedFixed(MockServer):
    """A server whose default seed is 0."""

    def params(self, body):
        """Add the default seed."""
        return super().params({"seed": 0, **body})


class SeedLostInCompany(MockServer):
    """A server that ignores a seed if other requests run at the same time (vllm#51226)."""

    def params(self, body):
        """Replace the seed if another request arrives within 0.3 seconds."""
        patience = time.monotonic() + 0.3
        while self.at_once == 1 and time.monotonic() < patience:
            time.sleep(0.002)
        alone = self.at_once == 1
        return super().params(body if alone or "seed" not in body else {**body, "seed": 99})


class UsageOfOneChoice(MockServer):
    """A server whose usage counts one choice."""

    def complete(self, body):
        """Divide the completion tokens by n."""
        whole = super().complete(body)
        usage = whole["usage"]
        usage["completion_tokens"] //= body.get("n", 1)
        usage["total_tokens"] = usage["prompt_tokens"] + usage["completion_tokens"]
        return whole


class BestOfFirst(MockServer):
    """A server whose best_of returns the first candidates."""

    def params(self, body):
        """Generate as many candidates as choices."""
        return super().params({name: value for name, value in body.items() if name != "best_of"})

    def complete(self, body):
        """Correct the usage to count all candidates."""
        whole = super().complete(body)
        many = body.get("best_of") or 0
        if many > body.get("n", 1):
            usage = whole["usage"]
            usage["completion_tokens"] *= many
            usage["total_tokens"] = usage["prompt_tokens"] + usage["completion_tokens"]
        return whole


class NoDone(MockServer):
    """A server whose streams end without [DONE]."""

    def events(self, chunks):
        """Drop the last event."""
        return (event for event in super().events(chunks) if b"[DONE]" not in event)


class OneNewline(MockServer):
    """A server that separates events by one newline."""

    def events(self, chunks):
        """Remove a newline."""
        return (event[:-1] for event in super().events(chunks))


class BufferedStream(MockServer):
    """A server whose streams have all text in the last chunk."""

    def chunks(self, body):
        """Yield one chunk per choice."""
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
    """A server with a finish_reason in every chunk."""

    def piece(self, delta):
        """Set finish_reason to "length"."""
        return {**super().piece(delta), "finish_reason": "length"}


class BrokenCharacters(MockServer):
    """A server that breaks characters of several bytes in streams."""

    def piece(self, delta):
        """Replace characters that are not ASCII by U+FFFD."""
        piece = super().piece(delta)
        return {**piece, "text": "".join(c if ord(c) < 128 else "\ufffd" for c in piece["text"])}


class ErrorInStream(MockServer):
    """A server that answers a bad streaming request with 200 and an event."""

    def answer(self, handler, data):
        """Send status 200 before the error."""
        try:
            self.check(self.parse(data))
        except BadRequestError as error:
            if b'"stream": true' in data:
                handler.begin(200, "text/event-stream")
                handler.wfile.write(b"data: " + json.dumps(self.error(error)).encode() + b"\n\n")
                return
        super().answer(handler, data)


class Clamps(MockServer):
    """A server that clamps temperatures above 2."""

    vocabulary = RULES | {"temperature": number(0, float("inf"))}

    def params(self, body):
        """Clamp the temperature."""
        return super().params({**body, "temperature": min(2, body.get("temperature", 1))})


class TrueIsOne(MockServer):
    """A server that accepts booleans as numbers."""

    vocabulary = RULES | {"max_tokens": lambda v: isinstance(v, int) and v >= 0}

    def params(self, body):
        """Convert max_tokens to an integer."""
        return super().params({**body, "max_tokens": int(body.get("max_tokens", 16))})


class FailsOnNaN(MockServer):
    """A server that answers NaN with 500."""

    def constant(self, word):
        """Raise an exception that `parse` does not catch."""
        raise RuntimeError(word)

    def answer(self, handler, data):
        """Answer 500 to it, like a framework."""
        try:
            super().answer(handler, data)
        except RuntimeError:
            handler.send_json(500, {"error": "Internal Server Error"})


class Model(MockServer):
    """A server that accepts any name of a model."""

    def check(self, body):
        """Replace the name by the served one."""
        return super().check({**body, "model": "mock"} if isinstance(body.get("model"), str) else body)


class ErrorsAsText(MockServer):
    """A server whose errors are {detail: text}, without the field's name."""

    def error(self, error):
        """Return an error in FastAPI's form."""
        return {"detail": "bad request"}


class NullsRefused(MockServer):
    """A server that refuses null as a wrong type."""

    def check(self, body):
        """Refuse nulls before they are dropped."""
        for name, value in body.items():
            if value is None:
                raise BadRequestError(400, f"{name} must not be null", name)
        return super().check(body)


class SixtyFourByDefault(MockServer):
    """A server whose default of max_tokens is 64."""

    def params(self, body):
        """Add the default."""
        return super().params({"max_tokens": 64, **body})


class StartTokenAdded(MockServer):
    """A server that adds a start token to prompts of token ids."""

    def prompts(self, body):
        """Prepend token 1."""
        return [[1, *p] if isinstance(p, list) else p for p in super().prompts(body)]


class TopPExcludes(MockServer):
    """A server whose top_p drops the token that crosses the threshold."""

    def params(self, body):
        """Halve the threshold, which drops that token."""
        p = body.get("top_p", 1)
        return super().params({**body, "top_p": p if p == 1 else p * 0.5})


class TemperatureSquared(MockServer):
    """A server that applies the temperature twice."""

    def params(self, body):
        """Square the temperature."""
        return super().params({**body, "temperature": min(2, body.get("temperature", 1) ** 2)})


class NeverGivesUp(MockServer):
    """A server that runs one request at a time and finishes a stream after its client has disconnected."""

    def send_events(self, handler, first, events):
        """Write the events slowly, and generate all of them even if the client disconnects."""
        with self.lock_of_all():
            try:
                super().send_events(handler, first, map(self.slowly, events))
            except OSError:
                for event in events:
                    self.slowly(event)

    def lock_of_all(self):
        """Return the lock that a running request holds."""
        self.__dict__.setdefault("_busy", __import__("threading").Lock())
        return self._busy

    def slowly(self, event):
        """Sleep ten milliseconds per event."""
        time.sleep(0.01)
        return event

    def complete(self, body):
        """Wait for the running request, then complete."""
        with self.lock_of_all():
            return super().complete(body)


class GrammarIgnored(MockServer):
    """A server that accepts grammars and ignores them."""

    def params(self, body):
        """Remove the grammar."""
        return super().params({k: v for k, v in body.items() if k not in ("structured_outputs", "response_format")})


class GrammarNotAnchored(MockServer):
    """A server that lets text follow a match of a regular expression."""

    def params(self, body):
        """Append three letters to the regular expression."""
        grammar = body.get("structured_outputs", {})
        loose = {"regex": grammar["regex"] + "[a-c]{3}"} if "regex" in grammar else grammar
        return super().params({**body, "structured_outputs": loose} if loose else body)


class BannedOnce(MockServer):
    """A server that uses only the first of the banned strings."""

    def params(self, body):
        """Keep only the first banned string."""
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
"""The checks to run per server, and the checks that must fail. No other check may fail."""
