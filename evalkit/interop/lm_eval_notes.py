"""What a reader of a comparison must know about an imported run.

In: lm-eval's tasks as read, and the records made of them. Out: sentences.
May not know: where they are shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from evalkit.interop.lm_eval_files import LmEvalFiles, count_not_finite
from evalkit.interop.lm_eval_format import HASHES
from evalkit.interop.lm_eval_leaves import Leaf
from evalkit.records import Record


def notes_on(
    files: LmEvalFiles, leaves: Mapping[str, Leaf], records: Mapping[str, Sequence[Record]]
) -> tuple[str, ...]:
    """Return one sentence for each thing that is not as it should be.

    Args:
        files: what was read.
        leaves: lm-eval's tasks by name.
        records: evalkit task to records.
    """
    notes = [note for leaf in leaves.values() for note in _on(leaf)]
    bare = count_not_finite(files.results)
    if bare:
        notes.append(f"{files.results_file.name}: {bare} totals are NaN or infinite; they are not used")
    for task, found in records.items():
        failed = [record.failure for record in found if record.failure]
        if failed:
            notes.append(f"task '{task}': {len(failed)} records failed, the first with: {failed[0]}")
    return tuple(notes)


def _on(leaf: Leaf) -> Iterator[str]:
    yield from leaf.notes
    samples = [sample for rows in leaf.samples.values() for sample in rows]
    replaced = sum(sample.replaced > 0 for sample in samples)
    if replaced:
        yield f"'{leaf.name}': {replaced} rows hold characters that no text can (halves of surrogate pairs), now U+FFFD"
    weak = sum(sample.hashes is None for sample in samples)
    if weak:
        yield f"'{leaf.name}': {weak} rows carry no hashes of lm-eval; the pairing by content is weak"
    for name in HASHES:
        wrong = sum(name in sample.faults for sample in samples)
        if wrong:
            yield f"'{leaf.name}': {name} of {wrong} rows is not that of their content"
    if any(sample.repeats > 1 for sample in samples):
        yield f"'{leaf.name}': several responses to a request; the first is kept, marks rest on all"
    again = max((len(rows) - len({sample.content for sample in rows}) for rows in leaf.samples.values()), default=0)
    if again:
        yield f"'{leaf.name}': {again} items repeat another one; they are paired in the order of their positions"
