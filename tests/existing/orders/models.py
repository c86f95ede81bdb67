"""An order with its lines, and what was counted of all orders."""

from django.conf import settings
from django.db import models


class Order(models.Model):
    class State(models.TextChoices):
        OPEN = "open"
        PAID = "paid"
        PACKED = "packed"
        ANNOUNCED = "announced"

    customer = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT)
    state = models.CharField(max_length=16, choices=State.choices, default=State.OPEN)
    payment_tries = models.IntegerField(default=0)
    parcels = models.IntegerField(default=0)

    def __str__(self):
        return f"Order {self.pk}"


class Line(models.Model):
    order = models.ForeignKey(Order, on_delete=models.CASCADE, related_name="lines")
    article = models.CharField(max_length=40)
    count = models.PositiveIntegerField(default=1)
    picked = models.BooleanField(default=False)

    def __str__(self):
        return f"{self.count} × {self.article}"


class Count(models.Model):
    at = models.DateTimeField(auto_now_add=True)
    open = models.IntegerField()

    def __str__(self):
        return f"{self.open} open at {self.at}"
