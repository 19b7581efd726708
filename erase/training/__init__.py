"""What the loops of the methods share: cost and resume, cached states, training images, gradients."""
