"""Small unconditional generators of 28 x 28 grey pictures, trained from scratch in a minute or two each."""

from evaluation.generators.diffusion import Diffusion, diffuse, train_diffusion
from evaluation.generators.sampling import Progress, sample
from evaluation.generators.vae import Vae, train_vae

__all__ = ["Diffusion", "Progress", "Vae", "diffuse", "sample", "train_diffusion", "train_vae"]
