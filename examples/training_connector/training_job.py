"""Trains a network of one hidden layer to tell two interleaved half-moons apart: python training_job.py FOLDER.

Reads ``spec.json``; writes a line per epoch to standard output, then ``model.json`` and ``result.json``.
A file called ``deleted`` ends it.
"""

from __future__ import annotations

import json
import math
import random
import sys
from pathlib import Path

Point = tuple[float, float, float]
"""Where it is, and to which moon it belongs (0 or 1)."""


def moons(count: int, noise: float, dice: random.Random) -> list[Point]:
    points = []
    for number in range(count):
        angle, upper = dice.uniform(0, math.pi), number % 2 == 0
        x, y = (math.cos(angle), math.sin(angle)) if upper else (1 - math.cos(angle), 0.5 - math.sin(angle))
        points.append((x + dice.gauss(0, noise), y + dice.gauss(0, noise), 1.0 if upper else 0.0))
    return points


class Network:
    def __init__(self, hidden: int, dice: random.Random) -> None:
        self.inner = [[dice.gauss(0, 1) for _ in range(3)] for _ in range(hidden)]
        self.outer = [dice.gauss(0, 0.5) for _ in range(hidden + 1)]

    def activations(self, x: float, y: float) -> tuple[list[float], float]:
        hidden = [math.tanh(a * x + b * y + c) for a, b, c in self.inner]
        total = sum(weight * value for weight, value in zip(self.outer, hidden, strict=False)) + self.outer[-1]
        return hidden, 1 / (1 + math.exp(-max(min(total, 60), -60)))

    def learn(self, point: Point, rate: float) -> float:
        """One step of gradient descent; the loss before it."""
        x, y, wanted = point
        hidden, guess = self.activations(x, y)
        slope = guess - wanted
        for index, value in enumerate(hidden):
            inner_slope = slope * self.outer[index] * (1 - value * value)
            self.outer[index] -= rate * slope * value
            self.inner[index] = [w - rate * inner_slope * v for w, v in zip(self.inner[index], (x, y, 1), strict=True)]
        self.outer[-1] -= rate * slope
        return -math.log(max(guess if wanted else 1 - guess, 1e-12))


def main(folder: Path) -> None:
    spec = json.loads((folder / "spec.json").read_text())
    dice = random.Random(spec["seed"])
    training, held_out = moons(300, spec["noise"], dice), moons(200, spec["noise"], dice)
    network, loss = Network(spec["hidden"], dice), math.inf
    for epoch in range(1, spec["epochs"] + 1):
        if (folder / "deleted").exists():
            return
        dice.shuffle(training)
        loss = sum(network.learn(point, spec["rate"]) for point in training) / len(training)
        print(f"epoch {epoch} loss {loss:.4f}", flush=True)
    right = sum((network.activations(x, y)[1] > 0.5) == (wanted == 1.0) for x, y, wanted in held_out)
    (folder / "model.json").write_text(json.dumps({"inner": network.inner, "outer": network.outer}))
    (folder / "result.tmp").write_text(json.dumps({"accuracy": right / len(held_out), "loss": loss}))
    (folder / "result.tmp").rename(folder / "result.json")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
