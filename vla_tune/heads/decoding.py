"""The older place of `vla_tune.models.heads.decoding`."""

from vla_tune.models.heads.decoding import Constrained, FullVocabulary

__all__ = ["Constrained", "FullVocabulary"]
