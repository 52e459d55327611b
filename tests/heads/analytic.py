"""Fields whose renderings are known in closed form."""

import torch


class Uniform:
    """Constant density inside a shape, nothing outside; colour by a function of the position.

    Features are the position, so that ``shade`` can make a colour of it. Counts the points it was asked about.
    """

    def __init__(self, density, inside=None, color=None):
        self.density = torch.as_tensor(density)
        self.inside = inside or (lambda x: torch.ones(len(x), dtype=torch.bool))
        self.color = color or (lambda x: torch.full_like(x, 0.5))
        self.points = []

    def encode(self, x):
        return x

    def geometry(self, x, encoded=None, features=None):
        self.points.append(x.detach())
        return self.density * self.inside(x), x

    def shade(self, features, directions, ray_index=None):
        assert len(features) == len(directions) or ray_index is not None
        return self.color(features)

    @property
    def seen(self):
        return torch.cat(self.points)


def in_ball(radius):
    return lambda x: x.norm(dim=-1) < radius
