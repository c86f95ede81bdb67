"""The same package in the next release: an order gained a parameter, and there is a new type."""

from esteira import Context, job


@job(name="shop.order", retries=0)
def order(ctx: Context, n: int, gift: bool = False) -> dict[str, object]:
    """Take an order."""
    return {"n": n, "by": "new", "gift": gift}


@job(name="shop.refund", retries=0)
def refund(ctx: Context, n: int) -> dict[str, object]:
    """Give the money back."""
    return {"n": n, "by": "new"}
