from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import inspect, select, text

from evalkit.errors import DataError, MissingExtraError, StoreError, UsageError
from evalkit.history import (
    ComparisonEntry,
    IdentityEntry,
    LedgerRow,
    NightEntry,
    RunEntry,
    VerdictEntry,
    Written,
    database,
    known_nights,
    open_history,
    read_comparisons,
    read_ledgers,
    read_nights,
    write_certificate_run,
    write_ledger,
    write_night,
)
from evalkit.history import reading as writing
from evalkit.history.database import COMPARISONS, IDENTITIES, NIGHTS, RUNS, VERDICTS


def identity(name="candidate", **changes) -> IdentityEntry:
    document = {
        "adapter": "modelopt", "model": "m", "recipe": name, "recipe_sha256": None, "fidelity": "simulated",
        "device": "H200", "versions": {"torch": "2.13"}, **changes,
    }  # fmt: skip
    return IdentityEntry(sha256=(name * 64)[:64], document=document)


def comparison(scope="watch", **changes) -> ComparisonEntry:
    made = {
        "endpoint": "mmlu", "task": "mmlu", "metric": "acc", "scope": scope, "unit": "proportion",
        "baseline": identity("baseline"), "n": 100, "counts": [90, 6, 2, 2], "baseline_value": 0.96,
        "candidate_value": 0.92, "difference": -0.04, "lower": -0.1, "upper": 0.0, "level": 0.95, "method": "betting",
    }  # fmt: skip
    return ComparisonEntry(**{**made, **changes})


def run(**changes) -> RunEntry:
    made = {
        "suite": "s", "site": "default", "name": "r", "night": "n1", "identity": identity(), "evalkit": "1.0",
        "policy_sha256": "p" * 64, "records_sha256": {"mmlu": "a" * 64}, "items": 100, "seconds": 8.0,
        "environment": {"driver": "570"}, "at": "2026-03-01T00:00:00",
    }  # fmt: skip
    return RunEntry(**{**made, **changes})


def night(label="n1", **changes) -> NightEntry:
    made = {
        "suite": "s", "site": "default", "night": label, "recipe": "r", "endpoint": "mmlu", "run": run(night=label),
        "outcome": "OK", "state": "OK", "confirm": None, "full": None,
        "reasons": [{"code": "clear", "message": "m", "endpoint": "mmlu"}], "asked": 128, "used": 100, "log_e": 3.1,
        "log_e_loss": -2.0, "seed": 3, "order_sha256": "o" * 64, "comparisons": [comparison()], "verdict": None,
        "started_at": f"2026-03-01T00:00:00 {label}", "finished_at": "2026-03-01T01:00:00", "environment": {},
        "subjects": [{"subject": "a", "items": 9, "losses": 1, "gains": 0}],
    }  # fmt: skip
    return NightEntry(**{**made, **changes})


@pytest.fixture
def history(tmp_path):
    with open_history(f"sqlite:///{tmp_path / 'deep' / 'history.sqlite'}") as opened:
        yield opened


def counts(history):
    with history.transaction() as connection:
        tables = (IDENTITIES, RUNS, COMPARISONS, VERDICTS, NIGHTS)
        return {table.name: len(connection.execute(select(table)).all()) for table in tables}


def test_a_night_is_kept_and_read_back(history):
    assert write_night(history, night()) is Written.NEW
    (row,) = read_nights(history)
    assert (row.night, row.outcome, row.used, row.log_e) == ("n1", "OK", 100, 3.1)
    assert row.identity["recipe"] == "candidate"
    assert row.watched.counts == (90, 6, 2, 2)
    assert row.watched.flips == 0.08
    assert row.whole is None
    assert row.best is row.watched
    assert row.rate == 12.5
    assert row.subjects[0]["losses"] == 1
    assert known_nights(history, suite="s", site="default") == {("n1", "r", "mmlu"): night().content_sha256}


def test_what_is_written_twice_is_kept_once(history):
    assert [write_night(history, night()) for _ in range(3)] == [Written.NEW, Written.KNOWN, Written.KNOWN]
    assert counts(history) == {"identities": 2, "runs": 1, "comparisons": 1, "verdicts": 0, "nights": 1}
    # Other clock readings are the same night.
    assert write_night(history, night(finished_at="later", started_at="other")) is Written.KNOWN


def test_another_result_for_the_same_night_is_refused_and_what_is_there_stays(history):
    write_night(history, night())
    with pytest.raises(DataError, match=r"night n1 of s, r, mmlu \(site default\) is there with another result"):
        write_night(history, night(outcome="ALARM", state="ALARM"))
    assert read_nights(history)[0].outcome == "OK"
    assert write_night(history, night(outcome="ALARM", site="h200", run=run(site="h200"))) is Written.NEW


def test_an_invalid_night_gives_way_to_its_repetition(history):
    down = night(outcome="INVALID", state=None, run=None, comparisons=[], used=0, order_sha256=None)
    assert write_night(history, down) is Written.NEW
    assert read_nights(history)[0].identity is None
    assert write_night(history, night()) is Written.REPLACED
    (row,) = read_nights(history)
    assert (row.outcome, row.watched.n) == ("OK", 100)
    assert counts(history)["nights"] == 1


def test_replacing_one_endpoint_keeps_the_other(history):
    broken = comparison(n=10, counts=[10, 0, 0, 0])
    for endpoint in ("mmlu", "other"):
        entry = night(outcome="INVALID", endpoint=endpoint, comparisons=[replace(broken, endpoint=endpoint)])
        write_night(history, entry)
    again = run(records_sha256={"mmlu": "b" * 64})
    for endpoint in ("mmlu", "other"):
        entry = night(endpoint=endpoint, run=again, comparisons=[comparison(endpoint=endpoint)])
        assert write_night(history, entry) is Written.REPLACED
    rows = read_nights(history)
    assert [(row.endpoint, row.watched.n) for row in rows] == [("mmlu", 100), ("other", 100)]
    assert counts(history)["runs"] == 1


def test_a_failure_in_the_middle_leaves_nothing(history):
    bad = night(comparisons=[comparison(), comparison(scope="full", n=None)])
    with pytest.raises(StoreError, match="nothing was written"):
        write_night(history, bad)
    assert set(counts(history).values()) == {0}


def test_order_filters_and_the_newest(history):
    for label in ("n3", "n1", "n2"):
        write_night(history, night(label))
    write_night(history, night("n9", recipe="other", run=run(name="other", night="n9")))
    assert [row.night for row in read_nights(history)] == ["n1", "n2", "n3", "n9"]
    assert [row.night for row in read_nights(history, recipe="r", last=2)] == ["n2", "n3"]
    assert read_nights(history, suite="none") == []
    assert [row.night for row in read_nights(history, last=1)] == ["n3", "n9"]


def test_certificates_are_kept_with_ratings(history):
    rating = comparison("full", endpoint="mt_bench", unit="rating", counts=None, n=80, invalid_share=0.01)
    verdict = VerdictEntry(
        policy="release", policy_sha256="p" * 64, outcome="CERTIFIED", claim="comparable", reasons=[],
        exploratory=False, certificate_sha256="c" * 64,
    )  # fmt: skip
    made = run(night=None)
    entries = [comparison("full"), rating]
    assert write_certificate_run(history, made, entries, verdict) is Written.NEW
    assert write_certificate_run(history, made, entries, verdict) is Written.KNOWN
    assert (
        write_certificate_run(history, run(night=None, records_sha256={"mmlu": "d" * 64}), entries, None) is Written.NEW
    )
    first, second, *_ = read_comparisons(history, name="r")
    assert (first.endpoint, first.outcome, second.unit, second.invalid_share) == ("mmlu", "CERTIFIED", "rating", 0.01)
    assert first.flips == 0.08
    assert second.flips is None


def described(history):
    """Return every table but those of the version: columns with types, keys and indexes."""
    with history.transaction() as connection:
        seen = inspect(connection)
        return {
            name: (
                [(c["name"], str(c["type"]), c["nullable"]) for c in seen.get_columns(name)],
                seen.get_pk_constraint(name)["constrained_columns"],
                sorted(key["column_names"] for key in seen.get_unique_constraints(name)),
                sorted((key["constrained_columns"], key["referred_table"]) for key in seen.get_foreign_keys(name)),
                sorted((index["name"], index["column_names"]) for index in seen.get_indexes(name)),
            )
            for name in sorted(seen.get_table_names())
            if not name.endswith("_version")
        }


@pytest.mark.parametrize("former", ["0001", "0003"])
def test_a_database_of_a_former_evalkit_is_brought_up_with_its_rows(tmp_path, history, former):
    """The files are what its migrations made, written down by SQLite itself."""
    file = tmp_path / "old.sqlite"
    with closing(sqlite3.connect(file)) as old:
        old.executescript(Path(__file__).with_name(f"former_{former}.sql").read_text("utf-8"))
        old.execute("INSERT INTO identities VALUES ('a', 'hf', 'm', 'r', NULL, 'engine', 'cpu', '{}')")
        old.commit()
    for _ in range(2):
        with open_history(f"sqlite:///{file}") as new:
            assert described(new) == described(history)
            assert write_night(new, night()) in (Written.NEW, Written.KNOWN)
            assert (counts(new)["nights"], counts(new)["identities"]) == (1, 3)


def test_tables_of_another_program_are_left_alone(tmp_path):
    file = tmp_path / "other.sqlite"
    with closing(sqlite3.connect(file)) as other:
        other.execute("CREATE TABLE runs (id INTEGER)")
        other.commit()
    with pytest.raises(StoreError, match="tables of another program stand there: runs"):
        open_history(str(file))
    with closing(sqlite3.connect(file)) as other:
        assert other.execute("SELECT name FROM sqlite_master").fetchall() == [("runs",)]


def test_entries_of_ledgers_are_kept_once_in_their_order_and_never_changed(tmp_path):
    url = f"sqlite:///{tmp_path / 'kept.sqlite'}"
    with open_history(url) as made:
        write_night(made, night())

    def row(ledger, sequence, sha256, line="{}"):
        return LedgerRow(sha256=sha256, ledger=ledger, place="h:/o", sequence=sequence, kind="run-begun", line=line)

    first = [row("a", 0, "0" * 64), row("a", 1, "1" * 64), row("b", 0, "2" * 64)]
    forked = row("a", 1, "3" * 64)
    with open_history(url) as new:
        assert counts(new)["nights"] == 1
        assert [write_ledger(new, first), write_ledger(new, first), write_ledger(new, [])] == [3, 0, 0]
        assert write_ledger(new, [*first, forked]) == 1
        assert write_ledger(new, [replace(first[0], line="changed")]) == 0
        assert read_ledgers(new) == [*first, forked]


@pytest.mark.parametrize("version", ["SET version = 9", "SET version = 0"])
def test_a_database_of_another_version_is_left_alone(tmp_path, version):
    url = f"sqlite:///{tmp_path / 'new.sqlite'}"
    with open_history(url) as history, history.transaction() as connection:
        connection.execute(text(f"UPDATE schema_version {version}"))
    for _ in range(2):
        with pytest.raises(StoreError, match=r"tables of version \d.*--record CERTIFICATE"):
            open_history(url)


@pytest.mark.parametrize(
    ("url", "error", "words"),
    [
        ("mysql://u:pw@h/d", UsageError, "'mysql' are not supported"),
        ("no such://url", UsageError, "is no URL"),
        ("sqlite:////proc/nothing/here.sqlite", StoreError, "/proc/nothing"),
        ("postgresql://u:pw@127.0.0.1:1/d", StoreError, "nothing was written"),
    ],
)
def test_a_database_that_cannot_be_used_is_named_without_its_password(url, error, words):
    with pytest.raises(error) as caught:
        open_history(url)
    assert words in str(caught.value)
    assert "pw" not in str(caught.value)


def test_a_missing_driver_is_named(monkeypatch):
    def absent(*_, **__):
        raise ModuleNotFoundError("No module named 'psycopg'", name="psycopg")

    monkeypatch.setattr(database, "create_engine", absent)
    with pytest.raises(MissingExtraError, match=r"psycopg.*evalkit-quant\[history\]"):
        open_history("postgresql://h/d")


def test_a_file_that_is_no_database(tmp_path):
    (tmp_path / "x.sqlite").write_text("no database " * 100)
    with pytest.raises(StoreError, match="not a database"):
        open_history(str(tmp_path / "x.sqlite"))


def test_engines_are_inserted_in_one_order_by_all_writers(history, monkeypatch):
    """Two writers that insert the same two engines in opposite orders would wait for each other."""
    seen = []
    insert = writing.insert_once

    def watched(connection, table, row, key):
        seen.append(row.get("sha256") if table is IDENTITIES else None)
        return insert(connection, table, row, key)

    monkeypatch.setattr(writing, "insert_once", watched)
    write_night(history, night())
    write_night(
        history,
        night("n2", run=run(night="n2", identity=identity("baseline")), comparisons=[comparison(baseline=identity())]),
    )
    digests = [sha256 for sha256 in seen if sha256]
    assert len(digests) == 4
    assert digests[:2] == sorted(digests[:2]) == digests[2:]
