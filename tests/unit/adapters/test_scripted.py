from __future__ import annotations

import json
import math
import subprocess
import sys
from typing import Any

import pytest

from evalkit.adapters.base import Failure, GenerateRequest, Generation, Message, Resources, ScoreReply, ScoreRequest
from evalkit.adapters.registry import load_engine
from evalkit.adapters.scripting.recording import record, request_digest, write_key
from evalkit.errors import ConfigError, DataError, UsageError
from evalkit.suite import EngineSpec

QUIZ = [ScoreRequest(context=f"Question {n}:", continuations=(" a", " bb", " ccc", " d")) for n in range(400)]
RIGHTS = [n * 7 % 4 for n in range(400)]


def engine(spec: dict[str, Any] | None = None, **options: Any) -> Any:
    values = {"name": "fake", "adapter": "scripted", "model": "nothing", **(spec or {}), "options": options}
    return load_engine(EngineSpec(**values), Resources(assets=None))


def scores(made: Any, requests=QUIZ) -> list[Any]:
    return [reply for _, reply in made.score(requests)]


def winners(made: Any) -> list[int]:
    return [reply.logprobs.index(max(reply.logprobs)) for reply in scores(made)]


def answer(made: Any, **changes: Any) -> Any:
    request = GenerateRequest(**{"prompt": "Say something.", "max_tokens": 50, **changes})
    ((_, reply),) = made.generate([request])
    return reply


def share(flags: list[bool]) -> float:
    return sum(flags) / len(flags)


def test_the_favoured_continuation_wins_in_the_share_asked_for(tmp_path):
    write_key(tmp_path / "key.jsonl", zip(QUIZ, RIGHTS, strict=True))
    for accuracy, low, high in ((1.0, 1.0, 1.0), (0.8, 0.74, 0.86), (0.0, 0.0, 0.0)):
        found = winners(engine(accuracy=accuracy, key=str(tmp_path / "key.jsonl")))
        assert low <= share([a == b for a, b in zip(found, RIGHTS, strict=True)]) <= high


def test_the_winner_wins_by_sum_and_by_character():
    for request, reply in zip(QUIZ, scores(engine(accuracy=0.6)), strict=True):
        pairs = zip(request.continuations, reply.logprobs, strict=True)
        by_character = [value / len(text.strip()) for text, value in pairs]
        assert by_character.index(max(by_character)) == reply.logprobs.index(max(reply.logprobs))


def test_favoured_may_be_the_first_the_longest_or_what_all_scripted_engines_agree_on():
    assert set(winners(engine(favour="first"))) == {0}
    assert set(winners(engine(favour="longest"))) == {2}
    assert winners(engine(seed=1)) == winners(engine(seed=2))
    assert {winners(engine()).count(place) > 60 for place in range(4)} == {True}


def test_with_one_seed_the_worse_engine_is_wrong_wherever_the_better_one_is():
    right, better, worse, other = (
        winners(engine(accuracy=accuracy, seed=seed)) for accuracy, seed in ((1.0, 0), (0.9, 0), (0.7, 0), (0.7, 1))
    )
    wrong = [{n for n, place in enumerate(found) if place != right[n]} for found in (better, worse, other)]
    assert wrong[0] < wrong[1]
    assert wrong[1] - wrong[2]
    assert wrong[2] - wrong[1]


def test_a_request_without_a_key_falls_back_and_a_key_out_of_range_fails(tmp_path):
    write_key(tmp_path / "key.jsonl", [(QUIZ[0], 3), (QUIZ[1], 4)])
    replies = scores(engine(favour="first", key=str(tmp_path / "key.jsonl")), QUIZ[:3])
    assert [max(reply.logprobs) == reply.logprobs[3] for reply in (replies[0], replies[2])] == [True, False]
    assert replies[1] == Failure(kind="engine", message="the key names continuation 4, but there are 4")


def test_an_empty_continuation_has_no_token():
    (reply,) = scores(engine(), [ScoreRequest(context="a", continuations=(" b", ""))])
    assert reply.kind == "missing-token"


def test_a_text_is_cut_at_the_limit_and_at_stops():
    made = engine(text="one two three. four")
    assert answer(made) == Generation(text="one two three. four", finish="stop", prompt_tokens=2, completion_tokens=4)
    assert answer(made, max_tokens=2) == Generation(
        text="one two", finish="length", prompt_tokens=2, completion_tokens=2
    )
    assert answer(made, stop=("four", ". ")).text == "one two three"
    assert answer(made, stop=("one",)) == Generation(text="", finish="stop", prompt_tokens=2, completion_tokens=0)


def test_one_of_several_texts_is_picked_by_the_request_and_by_the_seed_only_when_sampled():
    made = engine(text=["red", "green", "blue"])
    assert {answer(made, prompt=f"colour {n}").text for n in range(40)} == {"red", "green", "blue"}
    assert {answer(made, seed=n).text for n in range(40)} == {answer(made).text}
    assert {answer(made, seed=n, temperature=0.7).text for n in range(40)} == {"red", "green", "blue"}


def test_one_request_in_so_many_fails_whatever_its_place():
    made = engine(fail_every=4, fail_kind="transport")
    failed = {request_digest(QUIZ[n]) for n, reply in made.score(QUIZ) if isinstance(reply, Failure)}
    backwards = QUIZ[::-1]
    assert failed == {request_digest(backwards[n]) for n, reply in made.score(backwards) if isinstance(reply, Failure)}
    assert 60 <= len(failed) <= 140
    assert {reply.kind for reply in scores(made) if isinstance(reply, Failure)} == {"transport"}
    assert all(isinstance(reply, Failure) for reply in scores(engine(fail_every=1)))
    assert answer(engine(fail_every=1, fail_kind="refused")).kind == "refused"


def test_broken_numbers_are_not_finite_and_as_rare_as_asked():
    broken = [any(map(math.isnan, reply.logprobs)) for reply in scores(engine(break_every=10))]
    assert 20 <= sum(broken) <= 65
    assert answer(engine(break_every=1)).kind == "non-finite"


def test_replies_that_were_recorded_come_back_failures_too(tmp_path):
    talk = (Message(role="user", content="Say yes."),)
    asked = [GenerateRequest(prompt=prompt, max_tokens=9) for prompt in ("one", talk, "long " * 30)]
    source = engine(accuracy=0.5, seed=3, fail_every=5, max_length=30)
    first, second = tmp_path / "scores.jsonl", tmp_path / "texts.jsonl"
    assert record(first, [*QUIZ, QUIZ[0]], source.score([*QUIZ, QUIZ[0]])) == len(QUIZ)
    assert record(second, asked, source.generate(asked)) == 3
    (tmp_path / "both.jsonl").write_text(first.read_text() + "\n" + second.read_text())
    replayed = engine(replies=str(tmp_path / "both.jsonl"))
    assert scores(replayed) == scores(source)
    assert list(replayed.generate(asked)) == list(source.generate(asked))
    assert {type(reply) for reply in scores(replayed)} == {ScoreReply, Failure}


def test_the_order_of_replies_changes_no_byte_of_a_recording(tmp_path):
    replies = list(engine().score(QUIZ))
    record(tmp_path / "one", QUIZ, replies)
    record(tmp_path / "two", QUIZ, replies[::-1])
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_a_request_that_was_not_recorded_fails_by_name(tmp_path):
    record(tmp_path / "replies.jsonl", QUIZ[:1], engine().score(QUIZ[:1]))
    reply = scores(engine(replies=str(tmp_path / "replies.jsonl")), QUIZ[1:2])[0]
    assert reply == Failure(kind="engine", message=f"no reply to request {request_digest(QUIZ[1])} was recorded")


def test_a_recorded_text_is_no_score(tmp_path):
    row = {"text": "hi", "finish": "stop", "prompt_tokens": 1, "completion_tokens": 1}
    (tmp_path / "r.jsonl").write_text(json.dumps({"request": request_digest(QUIZ[0]), "reply": row}))
    (reply,) = scores(engine(replies=str(tmp_path / "r.jsonl")), QUIZ[:1])
    assert reply.message.endswith("is a Generation")


def test_a_number_that_is_not_finite_is_never_recorded(tmp_path):
    with pytest.raises(DataError, match="cannot be written as JSON"):
        record(tmp_path / "replies.jsonl", QUIZ, engine(break_every=2).score(QUIZ))
    assert not (tmp_path / "replies.jsonl").exists()


def test_a_greedy_request_is_the_same_request_with_any_seed():
    def named(**changes):
        return request_digest(GenerateRequest(prompt="a", max_tokens=1, **changes))

    assert named() == named(seed=9, top_p=0.5) != named(temperature=0.5)
    assert named(temperature=0.5, seed=1) != named(temperature=0.5, seed=2)


NAME = "0" * 64
SCORES = {"logprobs": [-1.0, -2.0], "greedy": [True, False], "tokens": [1, 1]}


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("{oops", "line 2: '{oops' is not valid JSON: Expecting property name"),
        ('{"request": 1, "request": 2}', "is not valid JSON: a repeated key"),
        ("[1]", "line 2: '[1]' must be a JSON object, not list"),
        (json.dumps({"request": "abc", "reply": SCORES}), "line 2: 'request' string should match pattern"),
        (json.dumps({"request": NAME}), "line 2: missing key 'reply'"),
        (json.dumps({"request": NAME, "reply": SCORES, "replies": 1}), "unknown key 'replies'; did you mean 'reply'?"),
        (
            json.dumps({"request": NAME, "reply": {**SCORES, "logprobs": [-1, "x"]}}),
            "'logprobs.1' should be a valid num",
        ),
        (json.dumps({"request": NAME, "reply": {**SCORES, "tokens": [1]}}), "have [2, 2, 1] values"),
        ('{"request": "' + NAME + '", "reply": {"logprobs": [NaN]}}', "the bare word NaN"),
        (json.dumps({"request": NAME, "reply": {"text": "a", "finish": "end"}}), "line 2, reply: unknown finish 'end'"),
        (json.dumps({"request": NAME, "reply": {"kind": "engine"}}), "line 2, reply: missing key 'message'"),
        (json.dumps({"request": "1" * 64, "reply": SCORES}), "is on line 1 already"),
    ],
)
def test_a_bad_recording_is_named_by_file_line_and_value(tmp_path, line, fault):
    path = tmp_path / "replies.jsonl"
    path.write_text(json.dumps({"request": "1" * 64, "reply": SCORES}) + "\n" + line + "\n")
    with pytest.raises(ConfigError) as caught:
        engine(replies=str(path))
    assert caught.value.source == str(path)
    assert any(fault in sentence for sentence in caught.value.faults), caught.value.faults
    assert all(sentence.startswith("line 2") for sentence in caught.value.faults)


def test_all_bad_lines_are_reported_together_but_not_without_end(tmp_path):
    (tmp_path / "key.jsonl").write_text("".join(f'{{"request": "{n:064d}", "right": -1}}\n' for n in range(25)))
    with pytest.raises(ConfigError) as caught:
        engine(key=str(tmp_path / "key.jsonl"))
    assert len(caught.value.faults) == 11
    assert "line 10: 'right' should be greater than or equal to 0, not -1" in caught.value.faults
    assert caught.value.faults[-1] == "15 more faults"


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.jsonl: cannot be read"):
        engine(replies=str(tmp_path / "none.jsonl"))


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"acuracy": 0.5}, "engine 'fake', options: unknown key 'acuracy'; did you mean 'accuracy'?"),
        ({"accuracy": 1.5}, "'accuracy' should be less than or equal to 1, not 1.5"),
        ({"favour": "last"}, "unknown favour 'last'"),
        ({"fail_every": 0}, "'fail_every' should be greater than or equal to 1, not 0"),
        ({"fail_kind": "bored"}, "unknown fail_kind 'bored'"),
        ({"replies": "r.jsonl", "text": "a"}, "'text' and 'key' would never be used"),
    ],
)
def test_a_wrong_option_is_named_with_its_value(options, fault):
    with pytest.raises(ConfigError) as caught:
        engine(**options)
    assert fault in str(caught.value)


def test_other_rules_are_another_engine_and_its_files_count_by_content(tmp_path):
    for name, right in (("one", 1), ("copy", 1), ("two", 2)):
        write_key(tmp_path / name, [(QUIZ[0], right)])
    made = [
        engine(),
        engine(seed=1),
        engine(accuracy=0.5),
        engine(text="a"),
        engine(key=str(tmp_path / "one")),
        engine(key=str(tmp_path / "two")),
        engine(max_length=9),
        engine(fidelity="engine"),
        engine({"model": "other"}),
        engine({"recipe": "int4-awq"}),
    ]
    assert len({one.identity.sha256 for one in made}) == len(made)
    copy = engine(key=str(tmp_path / "copy"))
    assert copy.identity == made[4].identity
    assert copy.identity.options == made[0].identity.options, "two scripted engines can be compared"


def test_a_recipe_is_a_name_and_never_a_path_and_nothing_is_said_to_be_quantized(tmp_path):
    entry = "{quantizer_name: '*', enable: false}"
    (tmp_path / "mine.yaml").write_text(
        f"metadata: {{recipe_type: ptq}}\nquantize: {{algorithm: max, quant_cfg: [{entry}]}}\n"
    )
    identity = engine({"recipe": str(tmp_path / "mine.yaml"), "model": str(tmp_path)}).identity
    assert (identity.recipe, identity.model) == ("mine", tmp_path.name)
    assert identity.recipe_sha256 is not None
    assert (identity.quantization["algorithm"], identity.fidelity) == ("scripted", "simulated")
    with pytest.raises(UsageError, match="unknown recipe 'int4-awk'; did you mean 'int4-awq'"):
        engine({"recipe": "int4-awk"})


def test_the_scripted_adapter_runs_without_torch():
    code = """
import sys
for name in ("torch", "transformers", "modelopt"):
    sys.modules[name] = None
from evalkit.adapters.base import Resources, ScoreRequest
from evalkit.adapters.registry import load_engine
from evalkit.suite import EngineSpec
engine = load_engine(EngineSpec(name="e", adapter="scripted", model="m"), Resources(assets=None))
print(len(list(engine.score([ScoreRequest(context="a", continuations=("b",))]))))
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "1\n"
