"""A check that settings of quantization still make."""

from collections.abc import Mapping

from quantskew.sections import Section


def refuse_idle(section: Section, acts: Mapping[str, tuple[str, bool]], within: str = "") -> None:
    """Refuse a field that is given without the choice that it acts with."""
    for name, (choice, chosen) in acts.items():
        if not chosen and getattr(section, name) != type(section).model_fields[name].default:
            key = f"{within}{name}"
            raise ValueError(f"{key} acts with {choice} alone; give that, or leave it out")
