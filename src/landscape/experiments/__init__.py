"""One module per figure of the paper, their scales, claims and verdicts."""
