"""What a terminal is shown."""

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.terminal import _is_obeyed, printable


@given(st.text(st.characters() | st.sampled_from("\x1b\x9b\u202e\u200b\n\t\xa0")))
def test_every_character_that_a_terminal_obeys_is_written_out_and_no_other_is_changed(text):
    assert printable(text) == "".join(c.encode("unicode_escape").decode() if _is_obeyed(c) else c for c in text)


def test_an_escape_sequence_is_written_out():
    assert printable("a\x1b[31m b\u202e\tc\n") == "a\\x1b[31m b\\u202e\tc\n"
