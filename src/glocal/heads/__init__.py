"""Networks on top of a backbone: projectors, predictors, prototypes."""
