"""Fields: encoders, networks, and the sizes they were published with.

A field is a chain of encoders and a network: ``encoder: hash_grid, network: relu`` is instant-ngp's,
``encoder: identity, network: siren`` is SIREN, ``encoder: chebyshev, network: fusion`` is SL2A, and
``encoder: [hash_grid, chebyshev], network: fusion`` is SL2A on the features of a hash grid.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal, TypeVar

from recon3d.errors import require

# --- encoders -------------------------------------------------------------------------------------------------------

EncoderName = Literal["identity", "frequency", "fourier", "hash_grid", "chebyshev", "spherical_harmonics"]


@dataclass(frozen=True)
class IdentityConfig:
    """The coordinates themselves."""

    scale: float = 1.0
    """Multiplies them (SIREN's audio: 100)."""

    def __post_init__(self) -> None:
        require(self.scale > 0, f"identity.scale is {self.scale}: give a positive number")


@dataclass(frozen=True)
class FrequencyConfig:
    """Positional encoding by sines and cosines (Mildenhall et al. 2020)."""

    levels: int = 10
    """Octaves: frequencies 2^0 pi to 2^(levels-1) pi."""

    def __post_init__(self) -> None:
        require(1 <= self.levels <= 24, f"frequency.levels is {self.levels}: give 1 to 24")


@dataclass(frozen=True)
class FourierConfig:
    """Gaussian Fourier features (Tancik et al. 2020)."""

    features: int = 256
    """Random frequencies; each gives a cosine and a sine."""
    sigma: float = 10.0
    """Standard deviation of the frequencies, in periods per unit of field length."""

    def __post_init__(self) -> None:
        require(self.features >= 1, f"fourier.features is {self.features}: give 1 or more")
        require(self.sigma > 0, f"fourier.sigma is {self.sigma}: give a positive number")


@dataclass(frozen=True)
class HashGridConfig:
    """Multiresolution hash grid (Müller et al. 2022)."""

    levels: int = 16
    """Number of resolutions."""
    features: Literal[1, 2, 4, 8] = 2
    """Features per level."""
    log2_size: int = 19
    """Rows of a level's table, at most 2 to this power."""
    coarsest: int = 16
    """Cells per side of the coarsest level."""
    finest: int | None = 2048
    """Cells per side of the finest level. None (in YAML null), for photographs alone: as many as they have pixels
    across the middle of the box."""
    decay: float = 1.0
    """Factor on the features from each level to the next: below 1, fine levels learn more slowly than coarse ones, and
    the field is the smoother where data are few."""

    def __post_init__(self) -> None:
        require(0 < self.decay <= 1, f"hash_grid.decay is {self.decay}: give more than 0, at most 1")
        require(self.levels >= 1, f"hash_grid.levels is {self.levels}: give 1 or more")
        require(4 <= self.log2_size <= 28, f"hash_grid.log2_size is {self.log2_size}: give 4 to 28")
        require(
            self.coarsest >= 2 and (self.finest is None or self.coarsest <= self.finest),
            f"hash_grid.coarsest ({self.coarsest}) and hash_grid.finest ({self.finest}): "
            "the coarsest must be at least 2 and not exceed the finest",
        )


@dataclass(frozen=True)
class ChebyshevConfig:
    """Learnable activation of Chebyshev polynomials, one per pair of input and output (SL2A, section 3.1)."""

    degree: int = 512
    """Highest degree (SL2A: 512 images, 256 NeRF, 200 super-resolution, 128 CT, 64 in one dimension)."""
    width: int | None = None
    """Outputs (default: the network's width, which fusion needs)."""

    def __post_init__(self) -> None:
        require(1 <= self.degree <= 2047, f"chebyshev.degree is {self.degree}: give 1 to 2047")
        require(self.width is None or self.width >= 1, f"chebyshev.width is {self.width}: give 1 or more")


@dataclass(frozen=True)
class SphericalHarmonicsConfig:
    """Real spherical harmonics of the direction of a 3D coordinate."""

    degree: int = 4
    """Bands: degree 4 gives 16 functions."""

    def __post_init__(self) -> None:
        require(1 <= self.degree <= 4, f"spherical_harmonics.degree is {self.degree}: give 1 to 4")


# --- networks -------------------------------------------------------------------------------------------------------

NetworkName = Literal["relu", "siren", "spder", "finer", "gauss", "wire", "fusion", "mfn", "incode"]
Damping = Literal["none", "sqrt", "log", "arctan", "sqrt_relu", "identity", "relu", "square"]


@dataclass(frozen=True)
class ReluConfig:
    """ReLU network (Kaiming-normal weights)."""

    skip: int | None = None
    """Hidden layer, counted from 0, that the network's input joins again (NeRF: 4 of 8; default: the middle one of six
    or more)."""

    def __post_init__(self) -> None:
        require(self.skip is None or self.skip >= 1, f"relu.skip is {self.skip}: give 1 or more")


@dataclass(frozen=True)
class SirenConfig:
    """sin(omega (W x + b)) (Sitzmann et al. 2020)."""

    omega: float = 30.0
    """Of the hidden layers."""
    first_omega: float | None = None
    """Of the first layer: the frequency of the whole field (default: omega)."""
    gain: float = 1.0
    """Multiplies the initial weights of the hidden layers."""

    def __post_init__(self) -> None:
        for name in ("omega", "first_omega", "gain"):
            value = getattr(self, name)
            require(value is None or value > 0, f"{name} is {value}: give a positive number")


@dataclass(frozen=True)
class SpderConfig(SirenConfig):
    """sin(z) d(z), z = omega (W x + b) (SPDER, equation 3); weights as SIREN's."""

    damping: Damping = "sqrt"
    """d: sqrt |z| (images), arctan z (audio), log |z|, sqrt relu z; the ablation: none, identity, relu, square."""


@dataclass(frozen=True)
class FinerConfig(SirenConfig):
    """sin(omega (|z| + 1) z), z = W x + b (Liu et al. 2024)."""

    first_bias: float | None = None
    """The first layer's biases start in U(-first_bias, first_bias) (default: torch's)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.first_bias is None or self.first_bias >= 0, f"first_bias is {self.first_bias}: give 0 or more")


@dataclass(frozen=True)
class GaussConfig:
    """exp(-(scale z)^2), z = W x + b (Ramasinghe and Lucey 2022)."""

    scale: float = 30.0

    def __post_init__(self) -> None:
        require(self.scale > 0, f"gauss.scale is {self.scale}: give a positive number")


@dataclass(frozen=True)
class WireConfig:
    """Complex Gabor wavelets exp(i omega z - |scale z|^2) (Saragadam et al. 2023); width / sqrt 2 complex units."""

    omega: float = 20.0
    first_omega: float | None = None
    """Default: omega."""
    scale: float = 10.0

    def __post_init__(self) -> None:
        for name in ("omega", "first_omega", "scale"):
            value = getattr(self, name)
            require(value is None or value > 0, f"wire.{name} is {value}: give a positive number")


@dataclass(frozen=True)
class FusionConfig:
    """ReLU layers whose input is modulated by the encoder's output (SL2A, section 3.2)."""

    rank: int | None = None
    """Rank of the weights, the last layer's too (SL2A's small variant: 32; default: full)."""
    skips: bool = True
    """Modulate every layer (the ablation: a plain ReLU network)."""

    def __post_init__(self) -> None:
        require(self.rank is None or self.rank >= 1, f"fusion.rank is {self.rank}: give 1 or more")


@dataclass(frozen=True)
class MfnConfig:
    """Multiplicative filter network (Fathony et al. 2021): takes coordinates, so its encoder is the identity."""

    filter: Literal["fourier", "gabor"] = "gabor"
    input_scale: float = 256.0
    alpha: float = 6.0
    beta: float = 1.0
    """Gamma distribution of the Gabor filters' widths."""

    def __post_init__(self) -> None:
        for name in ("input_scale", "alpha", "beta"):
            require(getattr(self, name) > 0, f"mfn.{name} is {getattr(self, name)}: give a positive number")


@dataclass(frozen=True)
class IncodeConfig(SirenConfig):
    """SIREN whose sines' amplitude, frequency, phase and shift come from a harmonizer that sees the measured signal
    (Kazerouni et al. 2024)."""

    penalties: tuple[float, float, float, float] = (0.1993, 0.0196, 0.0588, 0.0269)
    """Weights of the regulariser on (a, b, c, d)."""


# --- fields ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Published:
    """Sizes and learning rate that a kind of field was published with; they fill what a configuration leaves open, and
    the run's ``config.yaml`` then shows them."""

    width: int
    depth: int
    learning_rate: float
    color_width: int = 128
    color_depth: int = 1


PUBLISHED: dict[str, Published] = {
    "hash_grid": Published(64, 1, 2e-2, color_width=64, color_depth=2),
    "frequency": Published(256, 8, 5e-4),
    "relu": Published(256, 5, 1e-4),
    "siren": Published(256, 5, 1e-4),
    "spder": Published(256, 5, 1e-4),
    "finer": Published(256, 3, 5e-4),
    "gauss": Published(256, 3, 1e-3),
    "wire": Published(256, 2, 5e-3),
    "fusion": Published(256, 3, 1e-3),
    "mfn": Published(256, 3, 1e-2),
    "incode": Published(256, 3, 9e-4),
}
"""By encoder (hash grid: what its fast public implementations use on NeRF-synthetic scenes; frequency under a ReLU
network: NeRF's own), else by network."""

F = TypeVar("F", bound="FieldConfig")


@dataclass(frozen=True)
class FieldConfig:
    """Encoders, each on the output of the one before, and a network."""

    encoder: tuple[EncoderName, ...] = ("hash_grid",)
    network: NetworkName = "relu"
    backend: Literal["own", "tcnn"] = "own"
    """tcnn: tinycudann, where it is installed, computes the hash grid and its small ReLU networks, in float16."""
    width: int | None = None
    """Width of the network (default: as published)."""
    depth: int | None = None
    """Hidden layers. Of relu and fusion: all of them; of siren, spder, finer, gauss, wire and incode: those after the
    first; of mfn: the products."""
    identity: IdentityConfig = IdentityConfig()
    frequency: FrequencyConfig = FrequencyConfig()
    fourier: FourierConfig = FourierConfig()
    hash_grid: HashGridConfig = HashGridConfig()
    chebyshev: ChebyshevConfig = ChebyshevConfig()
    spherical_harmonics: SphericalHarmonicsConfig = SphericalHarmonicsConfig()
    relu: ReluConfig = ReluConfig()
    siren: SirenConfig = SirenConfig()
    spder: SpderConfig = SpderConfig()
    finer: FinerConfig = FinerConfig()
    gauss: GaussConfig = GaussConfig()
    wire: WireConfig = WireConfig()
    fusion: FusionConfig = FusionConfig()
    mfn: MfnConfig = MfnConfig()
    incode: IncodeConfig = IncodeConfig()

    def __post_init__(self) -> None:
        require(len(self.encoder) >= 1, "field.encoder is empty: name one or more (identity: the coordinates)")
        require(
            "hash_grid" not in self.encoder[1:] and "spherical_harmonics" not in self.encoder[1:],
            f"field.encoder is {' '.join(self.encoder)}: hash_grid and spherical_harmonics take coordinates, "
            "so they can only come first",
        )
        require(
            self.backend == "own" or (self.encoder == ("hash_grid",) and self.network == "relu"),
            f"field.backend tcnn has field.encoder hash_grid with field.network relu, not {' '.join(self.encoder)} "
            f"with {self.network}: choose these, or use own",
        )
        require(
            self.network != "mfn" or self.encoder == ("identity",),
            f"field.network mfn takes coordinates, not features: field.encoder must be identity, "
            f"not {' '.join(self.encoder)}",
        )
        for name in ("width", "depth"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"field.{name} is {value}: give 1 or more")
        own = self.chebyshev.width
        fused = self.network == "fusion" and self.encoder[-1] == "chebyshev"
        require(
            not fused or own is None or self.width is None or own == self.width,
            f"field.chebyshev.width ({own}) and field.width ({self.width}): fusion multiplies the two, "
            "so they must be equal",
        )

    @property
    def published(self) -> Published:
        """The sizes this kind of field was published with."""
        first = self.encoder[0]
        if first == "hash_grid" or (first == "frequency" and self.network == "relu"):
            return PUBLISHED[first]
        return PUBLISHED[self.network]

    def resolved(self: F) -> F:
        """With the sizes that were left open filled in."""
        published = self.published
        width = self.width or published.width
        chebyshev = dataclasses.replace(self.chebyshev, width=self.chebyshev.width or width)
        return dataclasses.replace(self, width=width, depth=self.depth or published.depth, chebyshev=chebyshev)


@dataclass(frozen=True)
class RadianceFieldConfig(FieldConfig):
    """Density and view-dependent colour: a field, and a ReLU network that makes colours of its features."""

    geometry_features: int = 16
    """Outputs of the density network: the first is the logarithm of the density, and all go to the colour network."""
    color_width: int | None = None
    color_depth: int | None = None
    """Hidden layers of the colour network."""
    direction_degree: int = 4
    """Degree of the spherical harmonics of the viewing direction, 1 (no view dependence) to 4."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("color_width", "color_depth"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"field.{name} is {value}: give 1 or more")
        features = self.geometry_features
        require(features >= 1, f"field.geometry_features is {features}: give 1 or more")
        require(1 <= self.direction_degree <= 4, f"field.direction_degree is {self.direction_degree}: give 1 to 4")

    def resolved(self) -> RadianceFieldConfig:
        """With the sizes that were left open filled in."""
        published, base = self.published, super().resolved()
        return dataclasses.replace(
            base,
            color_width=self.color_width or published.color_width,
            color_depth=self.color_depth or published.color_depth,
        )
