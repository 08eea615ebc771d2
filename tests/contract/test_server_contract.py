"""The real small model behind the doubles of servers: over HTTP come the numbers that `hf` gives in process."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from evalkit.adapters.base import Failure, GenerateRequest, Generation, Resources, ScoreReply, ScoreRequest
from evalkit.adapters.registry import load_engine
from evalkit.assets import AssetStore
from evalkit.suite import EngineSpec

pytestmark = [pytest.mark.system, pytest.mark.filterwarnings("ignore")]

ROOT = Path(__file__).resolve().parents[2]
LETTERS = (" A", " B", " C", " D")
QUESTIONS = (
    ("What is the capital of France?", ("Rome", "Paris", "Oslo", "Cairo")),
    ("How many legs has a spider?", ("Eight", "Two", "Ten", "Four")),
    ("Which of these is a metal?", ("Oxygen", "Iron", "Salt", "Wood")),
)
ITEMS = tuple(
    ScoreRequest(
        context="\n".join(
            [question, *(f"{letter.strip()}. {text}" for letter, text in zip(LETTERS, options, strict=True))]
        )
        + "\nAnswer:",
        continuations=LETTERS,
    )
    for question, options in QUESTIONS
)
TEXTS = (
    ScoreRequest(context="The capital of France is", continuations=(" Paris", " Rome", " a very large town")),
    ScoreRequest(context="Water boils when it is ", continuations=("hot", "heated to one hundred degrees")),
)


@pytest.fixture(scope="module")
def doubles():
    pytest.importorskip("httpx")
    return {name: _loaded(name) for name in ("brains", "model_server")}


def _loaded(name):
    return importlib.import_module(name)


@pytest.fixture(scope="module")
def brain(doubles, engine):
    return doubles["brains"].RealBrain(engine)


@pytest.fixture(scope="module")
def through(doubles, brain):
    """Score and generate through a double: `through(quirks, **options)` gives an engine."""
    running, made = [], []

    def load(quirks, **options):
        server = doubles["model_server"].ModelServer(brain=brain, quirks=quirks, model="small")
        running.append(server.__enter__())
        given = {"base_url": server.url, "backoff_s": 0.01, "concurrency": 2, **options}
        spec = EngineSpec(name="served", adapter="openai_server", model="small", options=given)
        made.append(load_engine(spec, Resources(assets=AssetStore(ROOT))))
        return made[-1]

    yield load
    for one in made:
        one.close()
    for server in running:
        server.__exit__()


def replies(engine, requests):
    return [reply for _, reply in sorted(engine.score(requests))]


def agree(left, right, tolerance):
    assert isinstance(left, ScoreReply), left
    assert left.logprobs == pytest.approx(right.logprobs, abs=tolerance)
    assert (left.greedy, left.tokens) == (right.greedy, right.tokens)


@pytest.mark.parametrize("engine", ["hf"], indirect=True, scope="session")
@pytest.mark.parametrize("way", ["echo", "next-token"])
def test_everything_agrees_with_hf_where_the_server_tokenises(engine, doubles, through, way, rounding):
    served = through(doubles["model_server"].vllm(echo="scored" if way == "echo" else "ignored"))
    assert served.identity.options["scoring"] == way
    for left, right in zip(replies(served, (*ITEMS, *TEXTS)), replies(engine, (*ITEMS, *TEXTS)), strict=True):
        agree(left, right, rounding((*ITEMS, *TEXTS)))
    (empty,) = replies(served, [ScoreRequest(context="", continuations=("The",))])
    assert (empty.kind, "neither a start nor an end token" in empty.message) == ("engine", True)


@pytest.mark.parametrize("engine", ["hf"], indirect=True, scope="session")
def test_letters_and_answers_agree_with_hf_on_trtllm_serve_or_are_missing_by_name(engine, doubles, through, rounding):
    served = through(doubles["model_server"].trtllm_serve(most=100))
    options = served.identity.options
    assert (options["scoring"], options["top_logprobs"], options["token_ids"]) == ("next-token", 100, False)
    found = replies(served, ITEMS)
    assert any(isinstance(left, ScoreReply) for left in found)
    for left, right in zip(found, replies(engine, ITEMS), strict=True):
        if isinstance(left, Failure):
            assert left.kind == "missing-token"
        else:
            agree(left, right, rounding(ITEMS))
    assert replies(served, TEXTS[:1])[0].kind == "missing-token", "several tokens cannot be scored there"
    requests = [GenerateRequest(prompt="Once upon a time", max_tokens=8)]
    ((_, left),), ((_, right),) = served.generate(requests), engine.generate(requests)
    assert isinstance(left, Generation)
    assert (left.text, left.finish, left.prompt_tokens) == (right.text, right.finish, right.prompt_tokens)


@pytest.mark.parametrize("engine", ["hf"], indirect=True, scope="session")
def test_a_tokenizer_on_this_machine_and_a_bias_score_everything_on_trtllm_serve(
    engine, doubles, through, real_folder, rounding
):
    served = through(doubles["model_server"].trtllm_serve(bias="raw"), tokenizer=str(real_folder))
    assert served.identity.tokenizer_sha256 == engine.identity.tokenizer_sha256
    assert served.identity.chat_template_sha256 == engine.identity.chat_template_sha256
    asked = (*ITEMS, *TEXTS, ScoreRequest(context="", continuations=("The", "A house")))
    for left, right in zip(replies(served, asked), replies(engine, asked), strict=True):
        agree(left, right, rounding(asked))
