"""Addresses: the admin, and everything else in `web`."""

from django.contrib import admin
from django.urls import include, path

urlpatterns = [path("admin/", admin.site.urls), path("", include("web.urls"))]

handler400 = "web.edge.bad_request"
handler403 = "web.edge.forbidden"
handler404 = "web.edge.not_found"
handler500 = "web.edge.server_error"
