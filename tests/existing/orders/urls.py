"""The addresses of orders."""

from django.urls import path

from . import views

urlpatterns = [path("place", views.place, name="place"), path("<int:order_id>", views.look, name="job")]
