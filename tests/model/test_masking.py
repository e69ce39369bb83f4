"""Noise that belongs to the sample: the published numbers of Philox, and what masks need of it."""

import pytest
import torch

from mae_fast.model.masking import SampleNoise
from mae_fast.model.philox import philox, uniform

# Random123's known answers for philox4x32-10: counter, key, output.
ONES = 0xFFFFFFFF
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((ONES,) * 4, (ONES,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    ((0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0),
     (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)),
]  # fmt: skip


@pytest.mark.parametrize("counter, key, output", KNOWN)
def test_philox_gives_the_published_numbers(counter, key, output):
    assert tuple(word.item() for word in philox(tuple(map(torch.tensor, counter)), key)) == output


def test_noise_of_a_sample_does_not_depend_on_its_batch():
    noise = SampleNoise(7, torch.device("cpu"))
    noise.at(3, 20)
    together = noise(12, (5, 3), torch.device("cpu"))
    assert together.shape == (12, 15) and together.dtype == torch.float32
    for first, size in ((0, 4), (4, 4), (8, 1), (9, 3)):
        noise.at(3, 20 + first)
        assert torch.equal(noise(size, (5, 3), torch.device("cpu")), together[first : first + size])
    for seed, epoch, place in ((8, 3, 20), (7, 4, 20), (7, 3, 32), (7 + 2**32, 3, 20), (7, 3, 20 + 2**32)):
        other = SampleNoise(seed, torch.device("cpu"))
        other.at(epoch, place)
        assert not torch.isin(other(12, (5, 3), torch.device("cpu")), together).any()


def test_noise_is_uniform():
    noise = uniform(torch.arange(4000), 50, torch.tensor(0), 0)
    assert 0 <= noise.min() < 1e-4 and 1 - 1e-4 < noise.max() < 1
    torch.testing.assert_close(noise.mean(0), torch.full((50,), 0.5), rtol=0, atol=0.025)  # 5 sigma
    counts = torch.histc(noise, 64, 0, 1)
    expected = noise.numel() / 64
    assert ((counts - expected) ** 2 / expected).sum() < 130  # chi-square of 63 degrees; above 115 once in 10000
    correlation = torch.corrcoef(noise.T) - torch.eye(50)
    assert correlation.abs().max() < 5 / 4000**0.5


def test_compiled_noise_is_the_same():
    noise = SampleNoise(7, torch.device("cpu"))
    compiled = torch.compile(lambda: noise(12, (5, 3), torch.device("cpu")), fullgraph=True)
    for epoch, place in ((0, 0), (3, 20), (2**31, 2**40)):
        noise.at(epoch, place)
        assert torch.equal(compiled(), noise(12, (5, 3), torch.device("cpu")))
