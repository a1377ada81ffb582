"""Where numbers come from: the commits, versions and processors of cards."""

from pandas import DataFrame

__all__ = ["provenance"]


def provenance(cards: DataFrame) -> dict[str, list[str]]:
    """List the commits, versions and processors of the cards, and the CPU time that methods took, by role."""
    origins = {name: sorted(set(cards[name].dropna())) for name in ("commit", "versions", "hardware") if name in cards}
    seconds = cards.reindex(columns=["role", "cpu_seconds"]).groupby("role", sort=False)["cpu_seconds"].sum()
    spent = [f"{role}: {_duration(total)}" for role, total in seconds.items() if total > 0]
    spent = [f"all: {_duration(seconds.sum())}", *spent]
    return {**origins, "CPU time in methods": spent, "cards": [str(len(cards))]}


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
