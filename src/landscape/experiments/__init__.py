"""One module per figure of the paper, their scales, claims and verdicts; no public interface."""

__all__: list[str] = []
