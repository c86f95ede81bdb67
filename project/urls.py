"""Addresses: the admin, and everything else in `web`."""

from django.contrib import admin
from django.urls import include, path

urlpatterns = [path("admin/", admin.site.urls), path("", include("web.urls"))]
