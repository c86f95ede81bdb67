"""A package outside the project, as an older release has it."""

from esteira import Context, job


@job(name="shop.order", retries=0)
def order(ctx: Context, n: int) -> dict[str, object]:
    """Take an order."""
    return {"n": n, "by": "old"}
