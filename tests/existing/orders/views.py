"""The shop's pages."""

import json

from django.contrib.auth.decorators import login_required
from django.db import transaction
from django.http import HttpResponse, JsonResponse
from django.views.decorators.http import require_POST

from .models import Line, Order
from .tasks import fulfil


def home(request):
    return HttpResponse("<script>document.title = 'Shop'</script><h1>Shop</h1>")


@login_required
@require_POST
def place(request):
    order = Order.objects.create(customer=request.user)
    wanted = json.loads(request.body)
    Line.objects.bulk_create(Line(order=order, article=name, count=count) for name, count in wanted.items())
    transaction.on_commit(lambda: fulfil(order))
    return JsonResponse({"order": order.pk}, status=201)


@login_required
def look(request, order_id):
    order = Order.objects.get(pk=order_id, customer=request.user)
    return JsonResponse({"state": order.state, "parcels": order.parcels})
