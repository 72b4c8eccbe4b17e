"""From the lake to a model: data sets, spectrograms, ResNet-34, quality scores, FilterLoss, evaluation."""
