"""From a model directory to a release: card, gate, Hub push, verification, roll-back."""
