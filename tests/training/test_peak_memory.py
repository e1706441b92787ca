import sys

import pytest
import torch

from vla_tune.training.peak_memory import peak_bytes, watch_peak

CPU = torch.device("cpu")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the maximum is that of the process")
def test_a_second_run_does_not_report_the_first_ones_memory():
    watch_peak(CPU)
    large = torch.ones(50_000_000)
    first = peak_bytes(CPU)
    del large
    watch_peak(CPU)
    second = peak_bytes(CPU)
    assert first - second > 150_000_000
