"""What the adapter of a run learned, as a table and a picture."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from omegaconf import DictConfig

from vla_tune.adapters.spectrum import Spectrum, kept, overlap, rank_that_keeps, spectra
from vla_tune.evaluation.spectrum_plot import plot_spectra
from vla_tune.printing import markdown, say
from vla_tune.run.chosen import chosen_run
from vla_tune.run.folder import ADAPTER_FOLDER
from vla_tune.run.stored import adapter_of, checkpoint_of
from vla_tune.schema import write_json

_OVERLAPS = 8
"""Overlaps are measured up to this many directions, as in the paper's figure 3."""


def spectrum_of_run(cfg: DictConfig) -> None:
    """What `scripts/spectrum.py` does: print the table, and write it with a picture into `cfg.to`.

    Raises:
        ValueError: the adapter is no change of weights, or the two runs have different bases or no layer in common.
    """
    folder = Path(cfg.to)
    found = _spectra(chosen_run(cfg, Path(cfg.run)))
    other = _spectra(Path(cfg.against)) if cfg.against else None
    shared = None if other is None else _shared(found, other, runs=(cfg.run, cfg.against))
    folder.mkdir(parents=True, exist_ok=True)
    text = _table(found)
    (folder / "table.md").write_text(text)
    record = {"layers": {name: _record(one) for name, one in found.items()}, "overlap": shared}
    write_json(folder / "spectrum.json", record)
    plot_spectra({name: one.values.tolist() for name, one in found.items()}, shared, folder / "spectrum.png", title=str(cfg.run))
    sentences = [text, *_sentences(found, share=cfg.share), *([] if shared is None else [_comparison(shared)])]
    say("\n".join([*sentences, f"Written to {folder}"]))


def _spectra(run: Path) -> dict[str, Spectrum]:
    checkpoint = checkpoint_of(run)
    changes = adapter_of(run).changes(run / ADAPTER_FOLDER, base_hash=checkpoint.content_hash())
    found = spectra(changes, checkpoint.weights())
    if not found:
        raise ValueError(f"{run}: its adapter changes no matrix of the base; there is nothing to decompose.")
    return found


def _record(one: Spectrum) -> dict[str, object]:
    return {"values": one.values.tolist(), "effective_rank": one.effective_rank, "relative_norm": one.relative_norm}


def _shared(one: Mapping[str, Spectrum], other: Mapping[str, Spectrum], *, runs: tuple[str, str]) -> list[list[float]]:
    """Mean overlap over the layers that both change: row i - 1, column j - 1."""
    common = [name for name in one if name in other]
    if not common:
        raise ValueError(f"{runs[0]} and {runs[1]} change no layer in common: there is nothing to compare.")
    most = min(_OVERLAPS, *(len(runs[name].values) for runs in (one, other) for name in common))
    steps = range(1, most + 1)
    return [[statistics.mean(overlap(one[name], other[name], i, j) for name in common) for j in steps] for i in steps]


def _table(found: Mapping[str, Spectrum]) -> str:
    head = ["weight", "rank", "effective rank", "largest singular value", "norm of the update / of the weight"]
    lines = [
        [name, f"{_rank([one])}", f"{one.effective_rank:.1f}", f"{one.values[0]:.3f}", f"{one.relative_norm:.4f}"]
        for name, one in found.items()
    ]
    return markdown(head, lines, left=1)


def _rank(found: Sequence[Spectrum]) -> int:
    """The largest, but for rounding."""
    return max(int((one.values > 1e-6 * one.values.max()).sum()) for one in found)


def _sentences(found: Mapping[str, Spectrum], *, share: float) -> list[str]:
    every = list(found.values())
    needed = rank_that_keeps(every, share)
    cut = [f"scripts/merge.py rank={needed} cuts it to that, if the policy still acts the same."] if needed < _rank(every) else []
    return [
        f"Rank {needed} would keep {100 * kept(every, needed):.1f} % of this update (squared norms of all layers); rank "
        f"{max(needed // 2, 1)} would keep {100 * kept(every, max(needed // 2, 1)):.1f} %.",
        *cut,
    ]


def _comparison(shared: list[list[float]]) -> str:
    most = len(shared)
    return f"Overlap of the first input directions: {shared[0][0]:.2f}; of the first {most}: {shared[-1][-1]:.2f} (1 is the same)."
