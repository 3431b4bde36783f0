"""The command lines of training, evaluation and prediction."""
