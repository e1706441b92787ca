"""The older place of what `softmax` of a head may be (`vla_tune.models.heads.codes`)."""

from vla_tune.models.heads.codes import ActionRows, WholeVocabulary

__all__ = ["ActionRows", "WholeVocabulary"]
