"""Search for parameters: trials scored on valid, drawn by Optuna, every one kept."""
