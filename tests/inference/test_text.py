"""Text from tokens, piece by piece: nothing that is sent is ever wrong, and it adds up to the whole."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from agentlightning.inference.text import Detokenizer, StopCutter, TextReader, Vocabulary, possible_start

from .conftest import make_tokenizer


def sentencepiece_like() -> PreTrainedTokenizerFast:
    """As Llama 2 and Mistral have it: `▁` for spaces, the first one dropped, single bytes for what has no token."""
    words = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"abc.", "▁a", "▁b", "ab", "é"]
    backend = Tokenizer(models.BPE({word: at for at, word in enumerate(words)}, [], byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def metaspace() -> PreTrainedTokenizerFast:
    words = ["<unk>", "▁", *"abc.", "▁a", "▁b", "ab", "▁▁"]
    backend = Tokenizer(models.Unigram([(word, -1.0) for word in words], unk_id=0))
    backend.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")


TOKENIZERS = {"byte-level": make_tokenizer(), "sentencepiece": sentencepiece_like(), "metaspace": metaspace()}
TEXTS = st.text(st.sampled_from("ab .é€😀日\n") | st.characters(codec="utf-8"), max_size=30)


def pieces(data: st.DataObject, ids: Sequence[int]) -> list[Sequence[int]]:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(ids)), max_size=len(ids))))
    return [ids[a:b] for a, b in itertools.pairwise([0, *cuts, len(ids)])]


def some_ids(data: st.DataObject, tokenizer: Any) -> list[int]:
    """Texts as a model writes them, between tokens that make no sense."""
    anything = st.lists(st.integers(0, len(tokenizer) - 1), max_size=40)
    text = st.lists(TEXTS.map(lambda text: tokenizer.encode(text, add_special_tokens=False)), max_size=3)
    return [*data.draw(anything), *itertools.chain(*data.draw(text)), *data.draw(anything)]


@pytest.mark.parametrize("kind", TOKENIZERS)
@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_pieces_add_up_to_the_decoded_whole(kind: str, data: st.DataObject) -> None:
    tokenizer = TOKENIZERS[kind]
    ids = some_ids(data, tokenizer)
    whole: str = tokenizer.decode(ids, skip_special_tokens=False)
    detokenizer, text = Detokenizer(Vocabulary(tokenizer, ())), ""
    for piece in pieces(data, ids):
        text += detokenizer.feed(piece)
        assert whole.startswith(text)
    assert text + detokenizer.finish() == whole


@pytest.mark.parametrize("kind", ["byte-level", "sentencepiece"])
def test_no_half_character_is_given(kind: str) -> None:
    tokenizer = TOKENIZERS[kind]
    detokenizer, given_ = Detokenizer(Vocabulary(tokenizer, ())), list[str]()
    for token in tokenizer.encode("a😀é日b", add_special_tokens=False):
        given_.append(detokenizer.feed([token]))
    assert "\ufffd" not in "".join(given_)
    assert "".join(given_) + detokenizer.finish() == "a😀é日b"
    assert given_.count("") >= 3, "the smiley alone has four tokens"


def test_plain_text_comes_at_once() -> None:
    tokenizer = TOKENIZERS["byte-level"]
    detokenizer = Detokenizer(Vocabulary(tokenizer, ()))
    ids = tokenizer.encode("What is 3 plus 4? " * 50)
    assert [detokenizer.feed([token]) for token in ids] == [tokenizer.decode([token]) for token in ids]


@settings(deadline=None, max_examples=500)
@given(
    text=st.text("ab#", max_size=40),
    stops=st.lists(st.text("ab#", min_size=1, max_size=4), max_size=3),
    data=st.data(),
)
def test_no_part_of_a_stop_string_is_given(text: str, stops: list[str], data: st.DataObject) -> None:
    whole = text[: min((text.find(stop) for stop in stops if stop in text), default=len(text))]
    cutter, got = StopCutter(stops), ""
    for piece in pieces(data, text):
        got += cutter.feed(str(piece))
        assert whole.startswith(got)
    assert got + cutter.finish() == whole


def test_what_cannot_become_a_stop_string_is_not_held_back() -> None:
    cutter = StopCutter(["###", "\nUser:"])
    assert [cutter.feed(text) for text in ("7 #", "# 8", "\n", "Us", "ers")] == ["7 ", "## 8", "", "", "\nUsers"]


def test_the_end_token_has_no_text_and_other_special_tokens_do() -> None:
    tokenizer = TOKENIZERS["byte-level"]
    start, end = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    reader = TextReader(Vocabulary(tokenizer, [end]), [])
    assert reader.feed([start, *tokenizer.encode("7"), end]) + reader.finish() == "<|im_start|>7"


@pytest.mark.parametrize(
    ("text", "patterns", "size"),
    [
        ("", ["ab"], 0),
        ("xa", ["ab"], 1),
        ("xab", ["ab"], 0),
        ("xaa", ["aab", "ac"], 2),
        ("ab", ["abc", "b"], 2),
        ("<tool", ["<tool_call>"], 5),
    ],
)
def test_possible_start(text: str, patterns: list[str], size: int) -> None:
    assert possible_start(text, patterns) == size
