"""How messages quote values of data and settings: nothing invisible, nothing endless."""

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_pipelines import errors, text
from ml_pipelines.system import terminal

TITLE, CLEAR, BELL = "\x1b]0;owned\x07", "\x1b[2J", "\x07"
ANY = st.text(st.characters())  # with control characters, surrogates and invisible blanks


@pytest.mark.parametrize(
    ("value", "quoted"),
    [
        ("yes", "'yes'"),
        ("yes\u200b", r"'yes\u200b'"),
        ("4273.73\xa0", r"'4273.73\xa0'"),
        (CLEAR, r"'\x1b[2J'"),
        ("a\tb\r\n", r"'a\tb\r\n'"),
        ("\ud800", r"'\ud800'"),
        (r"\N", r"'\\N'"),
        ("it's", '''"it's"'''),
        ("""'"'""", r"""'\'"\''"""),
        ("आयु, größe, 年齢", "'आयु, größe, 年齢'"),
        (1.5, "1.5"),
        (None, "None"),
        ([CLEAR], r"['\x1b[2J']"),
    ],
)
def test_a_quoted_value_shows_what_a_person_can_not_see(value: object, quoted: str) -> None:
    assert text.quoted(value) == quoted


@given(ANY, st.integers(10, 100))
def test_a_quoted_or_shown_value_is_short_and_printable(value: str, limit: int) -> None:
    shown, quoted = text.shown(value, limit), text.quoted(value, limit)
    assert len(shown) <= limit and shown.isprintable()
    assert len(quoted) <= limit + 2 and quoted.isprintable()


@given(ANY)
def test_a_short_quoted_value_is_the_value_in_python(value: str) -> None:
    assert eval(text.quoted(value, 10 * len(value) + 10)) == value


def test_a_long_value_ends_in_dots_and_no_escape_is_cut_in_two() -> None:
    assert text.quoted("x" * 200_000) == f"'{'x' * 77}...'"
    assert text.quoted("x" * 80) == f"'{'x' * 80}'"
    assert text.shown("x" * 76 + CLEAR * 9) == "x" * 76 + "..."


def test_a_long_list_says_how_many_values_it_leaves_out() -> None:
    assert text.listed(["a", "b"]) == "a, b"
    assert text.listed(dict.fromkeys("abcdefghijklm", 0)) == "a, b, c, d, e, f, g, h, i, j and 3 more"
    assert text.listed(["a", BELL, 3], most=2) == r"a, \x07 and 1 more"


def test_no_error_message_has_control_characters() -> None:
    error = errors.BadData(f"Column {TITLE}a:\n{CLEAR} is empty.")
    assert errors.one_line(error) == r"Column \x1b]0;owned\x07a: \x1b[2J is empty."
    assert errors.message_of(ValueError(BELL)) == r"\x07"


def test_the_terminal_gets_no_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.say(f"  ✗ 02_train {TITLE}\nsecond line\r  ✓ forged")
    terminal.complain(f"{CLEAR}\nsecond line")
    printed = capsys.readouterr()
    assert printed.out == "  ✗ 02_train \\x1b]0;owned\\x07\nsecond line\\r  ✓ forged\n"
    assert printed.err == "\\x1b[2J\nsecond line\n"


def test_a_lone_surrogate_can_be_printed(
    monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    monkeypatch.setattr(sys, "stdout", open(1, "w", encoding="utf-8", closefd=False))  # noqa: SIM115
    terminal.say("a file \udcff")
    assert capfdbinary.readouterr().out == b"a file \\udcff\n"


@pytest.fixture
def hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "_secrets", set())


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("postgresql://user:p@ss@host/db", "postgresql://user:***@host/db"),  # pragma: allowlist secret
        ("at http://me:pw12@host:5000 x", "at http://me:***@host:5000 x"),  # pragma: allowlist secret
        ("https://ghp_1234@github.com/x", "https://***@github.com/x"),
        ("s3://KEY:SeCrEt@bucket/a b", "s3://KEY:***@bucket/a b"),  # pragma: allowlist secret
        ("sc://host:15002/;token=abcdef;use_ssl=true", "sc://host:15002/;token=***;use_ssl=true"),
        ("https://x.blob/y?sv=1&sig=abc%3D&se=2", "https://x.blob/y?sv=1&sig=***&se=2"),
        ("abfss://container@account.dfs/x", "abfss://container@account.dfs/x"),
        ("http://127.0.0.1:5000/#/experiments/1", "http://127.0.0.1:5000/#/experiments/1"),
        ("a token=b and c@d", "a token=b and c@d"),
    ],
)
def test_credentials_in_an_address_are_hidden(hidden: None, address: str, shown: str) -> None:
    assert text.escaped(address) == text.shown(address) == shown
    assert errors.one_line(errors.ConfigError(address)) == shown


def test_a_new_password_of_an_address_is_no_change(hidden: None) -> None:
    text.hide(["hunter22", "hunter33"])
    first, second = (
        text.without_secrets([f"sc://h/;token={word}"], distinct=True) for word in ("hunter22", "hunter33")
    )
    assert first == second == ["sc://h/;token=***"]


def test_of_a_hidden_text_that_contains_another_one_nothing_is_shown(hidden: None) -> None:
    text.hide(["hunter22", "hunter22-of-production"])
    assert text.escaped("by hunter22-of-production") == "by ***"


def test_a_hidden_text_is_shown_nowhere(hidden: None, capsys: pytest.CaptureFixture[str]) -> None:
    text.hide(["hunter22", "a%2Fb%40c", "abc"])
    assert text.quoted("x" * 75 + "hunter22") == f"'{'x' * 75}***'"
    assert text.without_secrets({"a": ["hunter22", 1, {"b": "a/b@c"}]}) == {"a": ["***", 1, {"b": "***"}]}
    parts = [text.without_secrets(each, distinct=True) for each in ("x hunter22", "x a/b@c")]
    assert parts[0] != parts[1] and all(part.startswith("x ***") and len(part) == 13 for part in parts)
    terminal.say("hunter22 a/b@c abc")
    assert capsys.readouterr().out == "*** *** abc\n"
