"""Texts made to break things, in any bytes."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

LEADS = (b"", b"\xef\xbb\xbf", b"\xff\xfe", b"\x00")
BODIES = (b"a", b"\x00", b"\r", b"\n", b"\r\n", "é".encode(), "\U0001f600".encode(), b"\xed\xa0\x80", b"ab ")


def texts() -> SearchStrategy[bytes]:
    """Bytes, text, and one thing again and again."""
    return st.one_of(
        st.binary(max_size=2000),
        st.text(st.characters(exclude_categories=["Cs"]), max_size=1500).map(str.encode),
        st.builds(
            lambda lead, body, n: lead + body * n, st.sampled_from(LEADS), st.sampled_from(BODIES), st.integers(0, 3000)
        ),
    )
