"""Models of lm-eval behind evalkit's contract: what lm-eval would do silently is a failure or an error here."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from evalkit.adapters.base import Failure, GenerateRequest, Generation, Message, Resources, ScoreReply, ScoreRequest
from evalkit.adapters.registry import load_engine
from evalkit.assets import AssetStore
from evalkit.errors import ConfigError, EngineError, UsageError
from evalkit.suite import EngineSpec

pytestmark = pytest.mark.filterwarnings("ignore")

ROOT = Path(__file__).resolve().parents[4]
REQUESTS = [ScoreRequest(context=f"Question {n}", continuations=(" yes", " no no")) for n in range(5)]


@pytest.fixture(scope="module")
def registered():
    """Register two small models with lm-eval, as a user's own package would."""
    model = pytest.importorskip("lm_eval.api.model")
    registry = pytest.importorskip("lm_eval.api.registry")

    @registry.register_model("evalkit-test-words")
    class Words(model.TemplateLM):
        """A token is a word; numbers follow from lengths."""

        eot_token_id, max_length = 0, 32

        def __init__(self, bad="", pretrained="", broken=False, **_):
            super().__init__()
            self.bad, self.broken, self.seen = bad, broken, []
            self.pretrained = pretrained

        def tok_encode(self, string, add_special_tokens=None, **_):
            return [len(word) for word in string.split()]

        def _loglikelihood_tokens(self, requests, **_):
            if self.broken:
                raise RuntimeError("out of luck")
            self.seen += requests
            return [
                (math.nan if self.bad and self.bad in pair[0] else -float(len(context)) - sum(tail), len(tail) == 1)
                for pair, context, tail in requests
            ]

        def loglikelihood_rolling(self, requests, disable_tqdm=False):
            raise NotImplementedError

        def generate_until(self, requests, disable_tqdm=False):
            self.seen += [request.args for request in requests]
            return [f"said {request.args[0]}. STOP here" for request in requests]

    @registry.register_model("evalkit-test-mute")
    class Mute(model.LM):
        def __init__(self, **_):
            super().__init__()

        def loglikelihood(self, requests):
            raise NotImplementedError

        loglikelihood_rolling = generate_until = loglikelihood

    return "evalkit-test-words", "evalkit-test-mute"


@pytest.fixture
def build(registered):
    made = []

    def load(name=registered[0], recipe="none", **options):
        spec = EngineSpec(name="mine", adapter="lm_eval", model=name, recipe=recipe, options=options)
        made.append(load_engine(spec, Resources(assets=AssetStore(ROOT))))
        return made[-1]

    yield load
    for engine in made:
        engine.close()


def test_scores_are_lm_evals_own(build):
    found = dict(build(block=2).score(REQUESTS))
    assert sorted(found) == list(range(5))
    assert all(
        reply == ScoreReply(logprobs=(-5.0, -6.0), greedy=(True, False), tokens=(1, 2)) for reply in found.values()
    )


def test_a_number_that_is_none_fails_its_item_alone(build):
    found = dict(build(model_args={"bad": "Question 3"}).score(REQUESTS))
    assert [index for index, reply in found.items() if isinstance(reply, Failure)] == [3]
    assert found[3].kind == "non-finite"


def test_what_lm_eval_would_cut_is_a_failure_and_never_reaches_it(build):
    engine = build(max_length=6)
    assert engine.identity.options["max_length"] == 6
    long = ScoreRequest(context="one two three four five", continuations=(" six", " six seven eight"))
    found = dict(engine.score([long, *REQUESTS]))
    assert (found[0].kind, "need 7 tokens; the limit is 6" in found[0].message) == ("too-long", True)
    assert all(isinstance(found[index], ScoreReply) for index in range(1, 6))
    assert not any("five" in pair[0] for pair, _, _ in engine._lm.seen)
    answers = dict(
        engine.generate([GenerateRequest(prompt="a b c d", max_tokens=3), GenerateRequest(prompt="a", max_tokens=3)])
    )
    assert (answers[0].kind, type(answers[1])) == ("too-long", Generation)
    assert build().identity.options["max_length"] == 32, "the model's own"


def test_a_continuation_without_a_token_fails_alone(build):
    found = dict(build().score([ScoreRequest(context="one", continuations=("  ",)), *REQUESTS]))
    assert found[0].kind == "missing-token"
    assert all(isinstance(found[index], ScoreReply) for index in range(1, 6))


def test_answers_end_before_their_stop_text_and_settings_are_said(build):
    engine = build()
    ((_, reply),) = engine.generate([GenerateRequest(prompt="this", max_tokens=9, stop=("STOP",))])
    assert (reply.text, reply.finish, reply.prompt_tokens, reply.completion_tokens) == ("said this. ", "stop", 1, 2)
    assert engine._lm.seen[-1][1] == {"until": ["STOP"], "max_gen_toks": 9, "do_sample": False, "temperature": 0.0}
    ((_, reply),) = engine.generate([GenerateRequest(prompt="this", max_tokens=2, temperature=0.7, top_p=0.9, seed=3)])
    assert (reply.finish, reply.completion_tokens) == ("length", 2)
    assert (
        engine._lm.seen[-1][1] | {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "seed": 3}
        == engine._lm.seen[-1][1]
    )


def test_messages_need_a_template(build):
    with pytest.raises(UsageError, match=r"lm-eval's model has no chat template.*--template fastchat:<name>"):
        list(build().generate([GenerateRequest(prompt=(Message(role="user", content="Hi"),), max_tokens=2)]))


def test_a_backend_that_breaks_says_so(build):
    with pytest.raises(EngineError, match="lm-eval's model 'evalkit-test-words' broke: RuntimeError: out of luck"):
        list(build(model_args={"broken": True}).score(REQUESTS))


def test_weights_that_cannot_be_read_are_a_warning_or_declared(build):
    engine = build(model_args={"pretrained": "somewhere/else"})
    assert any("weights cannot be read back" in line for line in engine.warnings)
    assert engine.identity.quantization["algorithm"] == "unknown"
    assert engine.identity.weights_sha256 != build(model_args={"pretrained": "another"}).identity.weights_sha256
    declared = build(weights_sha256="cd" * 32)
    assert declared.identity.weights_sha256 == "cd" * 32


@pytest.mark.parametrize(
    ("model", "options", "kind", "words"),
    [
        ("evalkit-test-wodrs", {}, UsageError, "did you mean 'evalkit-test-words'"),
        ("evalkit-test-mute", {}, EngineError, "does not say how it splits text into tokens"),
        ("trtllm", {}, EngineError, "one place late"),
        ("hf", {}, EngineError, "cannot be built: TypeError"),
        ("hf", {"model_args": {"api_key": "sk-0123456789"}}, ConfigError, "api_key: keys are never part"),
        ("hf", {"asset": "no-such-asset"}, UsageError, "no-such-asset"),
        ("hf", {"modelargs": {}}, ConfigError, "did you mean 'model_args'"),
    ],
)
def test_wrong_requests_are_named(build, model, options, kind, words):
    with pytest.raises(kind, match=words) as caught:
        build(model, **options)
    assert "0123456789" not in str(caught.value)


def test_recipes_are_another_adapters(build):
    with pytest.raises(UsageError, match="next step: adapter: modelopt"):
        build(recipe="int4-awq")
