"""Rules that find the nouns of a caption, chosen by name (OVSeg section 3.2; docs/nouns.md)."""

from __future__ import annotations

from importlib import import_module

from pipelines.noun_rules.rule import Noun, NounRule
from schemas.errors import UserError

__all__ = ["RULE_NAMES", "Noun", "NounRule", "open_rule"]

# Modules are named, not imported: the lexicon must open where NLTK is not installed.
_RULES = {
    "nouns": ("pipelines.noun_rules.nltk_rules", "NounTokens"),
    "phrases": ("pipelines.noun_rules.nltk_rules", "NounPhrases"),
    "lexicon": ("pipelines.noun_rules.lexicon", "Lexicon"),
}

RULE_NAMES = tuple(_RULES)
"""The names `open_rule` knows; the first is the paper's mode and the default."""


def open_rule(name: str) -> NounRule:
    """The rule of that name with its data loaded, ready for captions.

    Raises UserError for an unknown name, and where a rule's NLTK data is missing. One rule never stands in
    for another: the rows would change with the machine.
    """
    if name not in _RULES:
        known = ", ".join(RULE_NAMES)
        raise UserError(f"noun rule: wanted one of {known}; got {name!r}; choose one of these names.")
    module, class_name = _RULES[name]
    return getattr(import_module(module), class_name)()
