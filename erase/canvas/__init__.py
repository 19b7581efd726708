"""The canvas: a small, real Stable-Diffusion-shaped model of a style x object world, shipped with the package."""
