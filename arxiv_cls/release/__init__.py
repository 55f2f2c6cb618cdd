"""From a model directory to a release: run record, card, gate, Hub push, verification, roll-back."""
