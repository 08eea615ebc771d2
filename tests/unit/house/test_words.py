"""The check for words that the glossary bans: where it looks, what it says, and that its patterns are patterns."""

import re
import runpy
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
WORDS = runpy.run_path(str(ROOT / "docs" / "words.py"))
GLOSSARY = "# Glossary\n\n## Words that are not used\n\n| not | but |\n|---|---|\n| `(red\\|blue) door` | entrance |\n"


def found(tmp_path: Path, name: str, text: str) -> list[str]:
    (tmp_path / "docs").mkdir(exist_ok=True)
    (tmp_path / "docs" / "glossary.md").write_text(GLOSSARY)
    (tmp_path / name).write_text(text)
    return list(WORDS["faults"](tmp_path, [name]))


def test_a_banned_word_is_named_with_its_place_and_the_better_one(tmp_path: Path) -> None:
    page = found(tmp_path, "page.md", "One.\n\nA Red\nand a blue\ndoor.\n".replace("\ndoor", " door"))
    assert page == ["page.md:4: 'blue door': write entrance (docs/glossary.md)"]
    code = 'def f():\n    """One.\n\n    A red door.\n    """\n    return f"{1} blue door"\n'
    assert found(tmp_path, "code.py", code) == [
        "code.py:4: 'red door': write entrance (docs/glossary.md)",
        "code.py:6: 'blue door': write entrance (docs/glossary.md)",
    ]


def test_code_of_documents_and_names_of_variables_are_left_alone(tmp_path: Path) -> None:
    assert not found(tmp_path, "page.md", "```\nred door\n```\n\nredder door\n")
    assert not found(tmp_path, "code.py", "red_door = 1  # red door\n")


def test_the_glossary_s_own_patterns_find_what_they_ban() -> None:
    patterns = WORDS["banned"]((ROOT / "docs" / "glossary.md").read_text("utf-8"))
    assert len(patterns) > 10
    assert all(re.compile(pattern) for pattern in patterns)
    for text in ("the judge's verdict", "verdicts of the judge", "may not know", "5 requests a second"):
        assert any(re.search(pattern, text) for pattern in patterns), text
    assert not any(re.search(pattern, "asked a question a second time") for pattern in patterns)
