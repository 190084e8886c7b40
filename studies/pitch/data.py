"""Frames of one voice whose pitch is known: sung by arithmetic, and spoken by espeak-ng where that is installed.

| symbol | meaning | shape |
| --- | --- | --- |
| f | pitch of a piece at every sample, in Hz | (samples,) |
| frames | what the network reads: 1,024 samples at 16 kHz, of mean 0 and deviation 1 | (N, 1024) |
| cents | pitch at the middle of a frame, in cents above 10 Hz | (N,) |
"""

from __future__ import annotations

import io
import shutil
import subprocess
import wave
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.signal import resample_poly

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    Samples = NDArray[np.float64]

RATE, FRAME = 16_000, 1024
RANGE = (80.0, 320.0)  # Hz: two octaves of the six that the networks know
SECONDS = 1.0
FRAMES_A_PIECE = 4
NOISE = (None, 10.0, 0.0, -5.0)  # signal to noise in dB; None: quiet
SPOKEN = 0.25  # share of the pieces
# First and second resonance of five vowels, in Hz.
VOWELS = ((730, 1090), (530, 1840), (270, 2290), (570, 840), (300, 870))
WORDS = (
    "morning river copper window seven little yellow garden under music never ocean paper machine follow market",
    "over mountain silver answer early journey winter harbour remember summer letter island across valley",
)
LONGEST = 256  # samples that a period has at most: 62.5 Hz
APERIODIC = 0.1  # what YIN's normalised difference must stay below for a frame to be voiced


@dataclass(frozen=True, slots=True)
class Frames:
    """Frames (N, 1024) and their pitch (N,) in cents above 10 Hz."""

    frames: Tensor
    cents: Tensor


def speaks() -> bool:
    """Whether espeak-ng is installed."""
    return shutil.which("espeak-ng") is not None


def frames(count: int, seed: int, *, spoken: bool) -> Frames:
    """Return frames of pieces that no other seed makes, four of each piece.

    Args:
        count: How many.
        seed: Of the pieces.
        spoken: Whether a quarter of the pieces is speech.
    """
    found: list[Samples] = []
    pitches: list[float] = []
    piece = 0
    while len(found) < count:
        rng = np.random.default_rng([seed, piece])
        is_speech = spoken and piece % round(1 / SPOKEN) == 0
        sound, voiced = _said(rng) if is_speech else _sung(rng)
        at = rng.permutation(sorted(voiced))[:FRAMES_A_PIECE]
        noisy = _with_noise(sound, NOISE[piece // round(1 / SPOKEN) % len(NOISE)], rng)
        for start in at:
            found.append(noisy[start : start + FRAME])
            pitches.append(voiced[start])
        piece += 1
    return _as_frames(found[:count], pitches[:count])


def melody(seed: int) -> list[Frames]:
    """Return one sung piece at each of the noises, its frames in their order, 16 ms apart."""
    pieces = []
    for place, noise in enumerate(NOISE):
        rng = np.random.default_rng([seed, place])
        sound, voiced = _sung(rng)
        noisy = _with_noise(sound, noise, rng)
        pieces.append(_as_frames([noisy[start : start + FRAME] for start in voiced], list(voiced.values())))
    return pieces


def _as_frames(sounds: list[Samples], pitches: list[float]) -> Frames:
    """Return stretches of sound as the network reads them, with pitches in Hz as cents."""
    frames = np.stack([(each - each.mean()) / each.std() for each in sounds])
    cents = 1200 * np.log2(np.array(pitches) / 10)
    return Frames(torch.tensor(frames, dtype=torch.float32), torch.tensor(cents, dtype=torch.float32))


def _sung(rng: np.random.Generator) -> tuple[Samples, dict[int, float]]:
    """Return a sung vowel, or a tone of an even spectrum: steady, gliding or with vibrato; starts of frames -> Hz."""
    time = np.arange(int(SECONDS * RATE)) / RATE
    low, high = np.log2(RANGE)
    first, last = rng.uniform(low, high, 2)
    pitch = np.full_like(time, first)
    movement = rng.integers(3)
    if movement == 1:
        pitch += (last - first) * time / SECONDS
    elif movement == 2:
        pitch += rng.uniform(20, 60) / 1200 * np.sin(2 * np.pi * rng.uniform(4, 7) * time)
    f = 2**pitch
    phase = 2 * np.pi * np.cumsum(f) / RATE
    vowel, tilt = rng.integers(2 * len(VOWELS)), rng.uniform(0.5, 1.5)
    sound = np.zeros_like(time)
    for harmonic in range(1, int(RATE / 2 / f.max())):
        loudness = harmonic**-tilt * np.ones_like(f)
        if vowel < len(VOWELS):
            loudness *= sum(1 / (1 + ((harmonic * f - place) / 120) ** 2) for place in VOWELS[vowel])
        sound += loudness * np.sin(harmonic * phase + rng.uniform(0, 2 * np.pi))
    return sound, {start: f[start + FRAME // 2] for start in range(0, len(sound) - FRAME, FRAME // 4)}


def _said(rng: np.random.Generator) -> tuple[Samples, dict[int, float]]:
    """Return spoken words, and the starts of frames that are voiced -> Hz, found in clean speech."""
    words = " ".join(rng.choice(" ".join(WORDS).split(), 4))
    spoken = subprocess.run(
        ["espeak-ng", "-v", "en-us", "-p", str(rng.integers(20, 80)), "--stdout", words],
        check=True,
        capture_output=True,
    ).stdout
    with wave.open(io.BytesIO(spoken)) as file:
        rate, data = file.getframerate(), np.frombuffer(file.readframes(file.getnframes()), np.int16)
    sound = resample_poly(data.astype(np.float64), RATE, rate)
    loud = np.sqrt(np.mean(sound**2))
    found = {}
    for start in range(0, len(sound) - FRAME, FRAME // 4):
        frame = sound[start : start + FRAME]
        f = yin(frame) if frame.std() > loud / 2 else None
        if f is not None and RANGE[0] <= f <= RANGE[1]:
            found[start] = f
    return sound, found


def yin(frame: Samples) -> float | None:
    """Return the pitch of a clean frame in Hz by YIN (de Cheveigne and Kawahara 2002, steps 1 to 5); None: unvoiced."""
    half = FRAME // 2
    start = half // 2 - LONGEST // 4  # the two stretches that are compared lie around the middle
    still = frame[start : start + half]
    difference = np.array([np.sum((still - frame[start + lag : start + lag + half]) ** 2) for lag in range(LONGEST)])
    normalised = difference[1:] * np.arange(1, LONGEST) / np.cumsum(difference[1:])
    low = np.flatnonzero(normalised < APERIODIC)
    if not len(low):
        return None
    rising = np.flatnonzero(np.diff(difference[low[0] + 1 :]) > 0)
    if not len(rising):
        return None
    lag = low[0] + 1 + rising[0]
    before, at, after = difference[lag - 1 : lag + 2]
    return float(RATE / (lag + (before - after) / (2 * (before - 2 * at + after))))


def _with_noise(sound: Samples, ratio: float | None, rng: np.random.Generator) -> Samples:
    """Add noise, white or falling by 3 dB an octave, at a ratio in dB."""
    noise: Samples = rng.standard_normal(len(sound))
    if rng.integers(2):
        spectrum = np.fft.rfft(noise)
        noise = np.fft.irfft(spectrum / np.sqrt(np.maximum(np.arange(len(spectrum)), 1)), len(sound))
    if ratio is None:
        return sound
    noise *= np.sqrt(np.mean(sound**2) / np.mean(noise**2)) * 10 ** (-ratio / 20)
    return sound + noise
