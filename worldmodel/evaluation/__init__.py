"""Opening a saved model: returns, imagined rollouts."""
