"""Drawing tokens, and the text of tokens as they come."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mha_ablate.data.tokenizers import BpeTokenizer, ByteTokenizer, CharTokenizer, as_it_comes, byte_level_alphabet
from mha_ablate.model.generate import continuation, pick
from mha_ablate.model.gpt import GPT
from tests.unit.small import gpt, loud

LOGITS = torch.tensor([0.0, 2.0, 1.0, -1.0])
BPE = BpeTokenizer.trained_on(iter(["größe, größer, 漢字 and 漢字 🙂🙂 \n\n  naïve naïve"] * 5), 300)
MODEL = loud(gpt()).eval()


def drawn(temperature: float, top_k: int | None = None, count: int = 4000) -> torch.Tensor:
    """How often each token is drawn."""
    stream = torch.Generator().manual_seed(0)
    picks = [pick(LOGITS, temperature, top_k, stream) for _ in range(count)]
    return torch.bincount(torch.tensor(picks), minlength=len(LOGITS)) / count


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_tokens_are_drawn_as_often_as_softmax_says(temperature: float) -> None:
    torch.testing.assert_close(drawn(temperature), torch.softmax(LOGITS / temperature, 0), rtol=0, atol=0.03)


def test_top_k_draws_among_the_likeliest_alone() -> None:
    wanted = torch.softmax(torch.tensor([-torch.inf, 2.0, 1.0, -torch.inf]), 0)
    torch.testing.assert_close(drawn(1.0, 2), wanted, rtol=0, atol=0.03)
    assert drawn(1.0, 1, 50)[1] == 1
    torch.testing.assert_close(drawn(1.0, 99), drawn(1.0), rtol=0, atol=0)


@pytest.mark.parametrize("temperature", [0.0, 5e-324, 1e-300, 1e-3])
def test_a_low_temperature_takes_the_likeliest(temperature: float) -> None:
    assert drawn(temperature, count=50)[1] == 1


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        pick(torch.tensor([0.0, bad]), 1.0, None, torch.Generator())


def tokens(model: GPT, seed: int, count: int = 40) -> list[int]:
    return list(itertools.islice(continuation(model, [1], temperature=1.0, top_k=None, seed=seed), count))


def test_the_same_seed_gives_the_same_tokens_and_another_others() -> None:
    torch.manual_seed(1)
    one = tokens(MODEL, 3)
    torch.manual_seed(2)
    assert tokens(MODEL, 3) == one != tokens(MODEL, 4)
    assert tokens(gpt(context=1).eval(), 3)


# ---- text


@given(st.binary(max_size=40))
def test_bytes_as_they_come_are_bytes_decoded(data: bytes) -> None:
    ids = np.frombuffer(data, dtype=np.uint8)
    pieces = list(as_it_comes(ByteTokenizer(), ids.tolist()))
    assert len(pieces) == len(ids) + 1
    assert "".join(pieces) == ByteTokenizer().decode(ids)


@given(st.lists(st.integers(0, BPE.vocab_size - 1), max_size=20))
def test_byte_pairs_as_they_come_are_byte_pairs_decoded(ids: list[int]) -> None:
    assert "".join(as_it_comes(BPE, ids)) == BPE.decode(np.array(ids, dtype=np.uint16))


@pytest.mark.parametrize("text", ["größer 漢字 🙂", "a\nb"])
def test_no_piece_of_a_good_text_holds_half_a_character(text: str) -> None:
    for tokenizer in (ByteTokenizer(), BPE, CharTokenizer.of(text)):
        pieces = list(as_it_comes(tokenizer, tokenizer.encode(text).tolist()))
        assert "".join(pieces) == text
        assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)


def test_the_alphabet_of_byte_pairs_is_the_librarys() -> None:
    from tokenizers import pre_tokenizers

    assert set(byte_level_alphabet()) == set(pre_tokenizers.ByteLevel.alphabet())
    assert sorted(byte_level_alphabet().values()) == list(range(256))
