"""Texts for properties, of all characters that UTF-8 can write, as Hypothesis' own `text` draws them.

Hypothesis asks each of a million characters whether UTF-8 can write it, which takes each process two seconds
where no earlier run has left the answer. It knows the category of each character: surrogates are those that
UTF-8 cannot write.
"""

from __future__ import annotations

from hypothesis import strategies as st

__all__ = ["CHARACTERS", "texts"]

CHARACTERS = st.characters(exclude_categories=["Cs"])


def texts(max_size: int | None = None) -> st.SearchStrategy[str]:
    """Draw texts of at most so many characters."""
    return st.text(CHARACTERS, max_size=max_size)
