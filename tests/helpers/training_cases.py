"""Settings that several tests of training start from."""

SEPARATE = {
    "train.epochs": 3,
    "train.decay": 1.0,
    "compact.warmup_epochs": 1,
    "compact.weights": "separate",
    "compact.weight_format": "int2",
    "prune.fraction": 0.5,
    "prune.granularity": "column",
}
