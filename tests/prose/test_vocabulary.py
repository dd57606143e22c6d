"""Texts and names use the words of the field: those of `vocabulary.toml` have a plainer equivalent."""

from __future__ import annotations

from tests.prose.vocabulary import ROOT, VOCABULARY, is_allowed, texts, uses, vocabulary

HINT = f"Write the other term, or allow the use in {VOCABULARY.relative_to(ROOT)} with its reason:"


def test_words_with_a_plainer_equivalent_are_not_used() -> None:
    messages = []
    for entry in vocabulary()["words"]:
        found = [use for use in uses(entry) if not is_allowed(use, entry)]
        limit = entry.get("limit", 0)
        if len(found) > limit:
            messages.append(f"{len(found)} uses, at most {limit}; instead: {entry['instead']}")
            messages += [f'    {use.file}:{use.line}: "{use.word}" in "{use.context}"' for use in found]
    assert not messages, "\n".join([HINT, *messages])


def test_every_allowed_use_exists_and_has_a_reason() -> None:
    for entry in vocabulary()["words"]:
        for each in entry.get("allowed", []):
            assert each["reason"]
            assert any(is_allowed(use, {"allowed": [each]}) for use in uses(entry)), f"remove {each}"


def test_terms_of_the_field_are_in_the_pages() -> None:
    pages = " ".join(" ".join(text.words.split()) for text in texts() if text.file.endswith(".md"))
    assert not [term for term in vocabulary()["terms"] if term.lower() not in pages.lower()]
