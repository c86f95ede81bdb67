"""The shop's addresses."""

from django.contrib import admin
from django.contrib.auth.views import LoginView, LogoutView
from django.urls import include, path
from orders import views

urlpatterns = [
    path("", views.home, name="home"),
    path("login", LoginView.as_view(template_name="orders/login.html"), name="customer-login"),
    path("logout", LogoutView.as_view(), name="logout"),
    path("orders/", include("orders.urls")),
    path("backoffice/", admin.site.urls),
]
