"""Stochastic latents: `num_params`, `dist(params)`, `sample(dist)`, `mode(dist)`, `kl(post, prior)`, `flat(stoch)`."""
