"""The model's part of a contract, read by the family that it names."""

from vla_tune.schema import Contract, structured


def own_record[T](contract: Contract, kind: type[T], *, family: str, source: str) -> T:
    """The record of `family`, as `kind`.

    Raises:
        ValueError: it is another family's, or a field is missing, unknown or of the wrong type.
    """
    if contract.model["family"] != family:
        raise ValueError(
            f"{source}: it is for a model of the family {contract.model['family']!r}, this one is {family!r}: load the checkpoint "
            "that it was made for."
        )
    return structured(contract.model, kind, f"{source}: model")
