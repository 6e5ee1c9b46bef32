#!/usr/bin/env python3
"""Makes sentencepiece.json: a small vocabulary, and what sentencepiece itself makes of some texts.

    pip install sentencepiece
    python make_sentencepiece.py > sentencepiece.json

The vocabulary is trained on this script, with bytes to fall back on; types are GGUF's: 1 normal,
2 unknown, 3 control, 6 byte.
"""

import io
import json
import pathlib

import sentencepiece

TEXTS = [
    "the vocabulary is trained on this script",
    "  two spaces, then one ",
    "def main():\n    return 12345",
    "unseen: é ü 東京 🙂\tand a tab",
    "a",
    "",
    "pieces.pieces,pieces pieces",
]


def main():
    trained = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(pathlib.Path(__file__).read_text().split("\n")),
        model_writer=trained, model_type="bpe", vocab_size=420, byte_fallback=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False,
        hard_vocab_limit=False, character_coverage=1.0, minloglevel=2)
    model = sentencepiece.SentencePieceProcessor(model_proto=trained.getvalue())
    ids = range(model.get_piece_size())
    kind = lambda i: (2 if model.is_unknown(i) else 3 if model.is_control(i)
                      else 6 if model.is_byte(i) else 1)
    golden = {
        "sentencepiece": sentencepiece.__version__,
        "tokens": [model.id_to_piece(i) for i in ids],
        "scores": [model.get_score(i) for i in ids],
        "token_types": [kind(i) for i in ids],
        "cases": [{"text": text, "ids": model.encode(text)} for text in TEXTS],
    }
    lines = ",\n".join(f'"{key}": {json.dumps(value, ensure_ascii=False)}' for key, value in golden.items())
    print("{\n" + lines + "\n}")


if __name__ == "__main__":
    main()
